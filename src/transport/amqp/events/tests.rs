//! The guard with event links: what goes past the library, and what the library's flows are made to say.

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{
    self, DeliveryTag, Handle, LinkError, ReceiverSettleMode, Role, SenderSettleMode, SessionError,
};
use fe2o3_amqp_types::performatives::{
    Attach, Begin, Detach, Disposition, End as EndOfSession, Flow, Performative, Transfer,
};
use proptest::prelude::*;
use serde_amqp::{from_slice, to_vec};

use super::queue::{End, Links, Payload, Registered};
use crate::transport::amqp::guard::FrameGuard;

const MAX_FRAME: u32 = 65_536;
const MAX_MESSAGE: u64 = 1024 * 1024;
const MIB: usize = 1024 * 1024;

fn frame(channel: u16, performative: Performative, payload: &[u8]) -> Vec<u8> {
    let body = match performative {
        Performative::Begin(begin) => to_vec(&begin),
        Performative::Attach(attach) => to_vec(&attach),
        Performative::Flow(flow) => to_vec(&flow),
        Performative::Transfer(transfer) => to_vec(&transfer),
        Performative::Disposition(disposition) => to_vec(&disposition),
        Performative::Detach(detach) => to_vec(&detach),
        Performative::End(end) => to_vec(&end),
        Performative::Open(_) | Performative::Close(_) => unreachable!(),
    }
    .unwrap();
    let size = u32::try_from(8 + body.len() + payload.len()).unwrap();
    [
        &size.to_be_bytes()[..],
        &[2, 0],
        &channel.to_be_bytes(),
        &body,
        payload,
    ]
    .concat()
}

fn begin(remote_channel: Option<u16>, next_outgoing_id: u32) -> Performative {
    Performative::Begin(Begin {
        remote_channel,
        next_outgoing_id,
        incoming_window: 100,
        outgoing_window: 100,
        handle_max: Handle(255),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    })
}

fn attach(
    name: &str,
    handle: u32,
    role: Role,
    initial_delivery_count: Option<u32>,
) -> Performative {
    Performative::Attach(Attach {
        name: name.to_owned(),
        handle: Handle(handle),
        role,
        snd_settle_mode: SenderSettleMode::Settled,
        rcv_settle_mode: ReceiverSettleMode::First,
        source: None,
        target: None,
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count,
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    })
}

fn transfer(handle: u32, id: Option<u32>, settled: bool, more: bool) -> Transfer {
    Transfer {
        handle: Handle(handle),
        delivery_id: id,
        delivery_tag: id.map(|id| DeliveryTag::from(id.to_be_bytes().to_vec())),
        message_format: Some(0),
        settled: Some(settled),
        more,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}

fn detach(handle: u32, error: Option<LinkError>) -> Performative {
    Performative::Detach(Detach {
        handle: Handle(handle),
        closed: true,
        error: error.map(|error| definitions::Error::new(error, None, None)),
    })
}

/// A flow of the library, which has seen nothing.
fn flow(handle: Option<u32>) -> Performative {
    Performative::Flow(Flow {
        next_incoming_id: Some(1),
        incoming_window: 77,
        next_outgoing_id: 3,
        outgoing_window: 99,
        handle: handle.map(Handle),
        delivery_count: handle.map(|_| 5),
        link_credit: handle.map(|_| 299),
        available: None,
        drain: false,
        echo: false,
        properties: None,
    })
}

/// A connection with a guard in the middle.
struct Connection {
    links: Links,
    guard: FrameGuard,
}

impl Connection {
    fn new() -> Self {
        let links = Links::default();
        Self {
            guard: FrameGuard::new(MAX_FRAME, MAX_MESSAGE, 10_000, links.clone()),
            links,
        }
    }

    /// Lets the library send; returns what the peer gets.
    fn send(&mut self, channel: u16, performative: Performative) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.guard
            .send(&frame(channel, performative, &[]), &mut out)
            .unwrap();
        out.to_vec()
    }

    /// Lets the peer send; returns what the library gets.
    fn receive(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        self.guard.room().extend_from_slice(bytes);
        let checked = self.guard.check();
        let mut out = Vec::new();
        while self.guard.give(4096, |bytes| out.extend_from_slice(bytes)) > 0 {}
        checked.map(|()| out)
    }

    /// Attaches an event link on a session of its own. Our channel is `n` and the peer's `n + 100`; our handle is 0
    /// and the peer's 7. The first transfer has `first_transfer`, the first delivery `first_delivery`.
    fn attach(
        &mut self,
        n: u16,
        (most_events, most_bytes): (u32, usize),
        first_transfer: u32,
        first_delivery: u32,
    ) -> Registered {
        let name = format!("link-{n}");
        let registered = self.links.register(name.clone(), most_events, most_bytes);
        self.send(n, begin(None, 0));
        self.send(n, attach(&name, 0, Role::Receiver, None));
        let answers = [
            frame(n + 100, begin(Some(n), first_transfer), &[]),
            frame(
                n + 100,
                attach(&name, 7, Role::Sender, Some(first_delivery)),
                &[],
            ),
        ]
        .concat();
        assert_eq!(self.receive(&answers).unwrap(), answers);
        registered.queue().take(0);
        registered
    }

    /// What a flow of the library for the link of [`attach`](Self::attach) has become.
    fn flow(&mut self, n: u16) -> Flow {
        let out = self.send(n, flow(Some(0)));
        let size = u32::from_be_bytes(*out.first_chunk().unwrap()) as usize;
        assert_eq!(out.len(), size);
        match from_slice(&out[8..]).unwrap() {
            Performative::Flow(flow) => flow,
            other => panic!("{other:?}"),
        }
    }
}

fn event(n: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    let transfer = transfer(7, Some(id), true, false);
    frame(n + 100, Performative::Transfer(transfer), payload)
}

fn part(n: u16, id: Option<u32>, payload: &[u8], more: bool) -> Vec<u8> {
    let transfer = transfer(7, id, true, more);
    frame(n + 100, Performative::Transfer(transfer), payload)
}

fn bodies(registered: &Registered) -> Vec<Bytes> {
    let taken = registered.queue().take(1000);
    taken
        .messages
        .into_iter()
        .map(|payload| match payload {
            Payload::Whole(bytes) => bytes,
            Payload::TooLarge { .. } => panic!("too large"),
        })
        .collect()
}

const USUAL: (u32, usize) = (300, 8 * MIB);

#[test]
fn events_go_past_the_library_and_everything_else_to_it() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    let other = [
        frame(
            9,
            Performative::Transfer(transfer(7, Some(0), true, false)),
            &[0x00, 0x53, 0x75, 0xa0, 0],
        ),
        frame(
            101,
            Performative::Transfer(transfer(8, Some(0), true, false)),
            &[0x00, 0x53, 0x75, 0xa0, 0],
        ),
        frame(101, flow(None), &[]),
    ]
    .concat();
    let bytes = [&event(1, 0, b"one")[..], &other, &event(1, 1, b"two")].concat();
    // However the stream is cut.
    let mut out = Vec::new();
    for chunk in bytes.chunks(5) {
        out.extend(connection.receive(chunk).unwrap());
    }
    assert_eq!(out, other);
    assert_eq!(bodies(&link), ["one", "two"]);
    // A link of which we know nothing is none of ours.
    let stranger = frame(5, attach("link-1", 7, Role::Sender, None), &[]);
    assert_eq!(connection.receive(&stranger).unwrap(), stranger);
}

#[test]
fn flows_tell_how_far_the_events_have_come() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, u32::MAX - 1, u32::MAX);
    let first = connection.flow(1);
    assert_eq!(first.next_incoming_id, Some(u32::MAX - 1));
    assert_eq!(first.delivery_count, Some(u32::MAX));
    assert_eq!(first.link_credit, Some(8));
    // The rest is the library's.
    assert_eq!(first.incoming_window, 77);
    assert_eq!((first.next_outgoing_id, first.outgoing_window), (3, 99));

    let frames = [
        event(1, 0, b"a"),
        part(1, Some(1), b"b1", true),
        part(1, None, b"b2", true),
        part(1, None, b"b3", false),
        part(1, Some(2), b"c", true),
    ];
    assert!(connection.receive(&frames.concat()).unwrap().is_empty());
    // Not taken yet, so that nothing new is granted; the numbers went over the top.
    let second = connection.flow(1);
    assert_eq!(second.next_incoming_id, Some(3));
    assert_eq!(second.delivery_count, Some(1));
    assert_eq!(second.link_credit, Some(6));
    assert_eq!(bodies(&link), ["a", "b1b2b3"]);
    // A flow of the session alone.
    let out = connection.send(1, flow(None));
    let Performative::Flow(third) = from_slice(&out[8..]).unwrap() else {
        panic!()
    };
    assert_eq!(third.next_incoming_id, Some(3));
    assert_eq!((third.handle, third.link_credit), (None, None));
    // Sessions without event links are the library's alone.
    let plain = frame(40, flow(Some(0)), &[]);
    assert_eq!(connection.send(40, flow(Some(0))), plain);
}

#[test]
fn credit_of_one_is_told_again_and_again_across_the_wrap() {
    let mut connection = Connection::new();
    let link = connection.attach(1, (1, 8 * MIB), u32::MAX - 4, u32::MAX - 2);
    for n in 0..10u32 {
        let flow = connection.flow(1);
        assert_eq!(flow.link_credit, Some(1));
        assert_eq!(flow.delivery_count, Some((u32::MAX - 2).wrapping_add(n)));
        assert_eq!(flow.next_incoming_id, Some((u32::MAX - 4).wrapping_add(n)));
        connection.receive(&event(1, n, b"x")).unwrap();
        assert_eq!(connection.flow(1).link_credit, Some(0));
        let taken = link.queue().take(10);
        assert!(taken.owes_credit && taken.messages.len() == 1);
    }
}

#[test]
fn links_on_one_connection_do_not_mix() {
    let mut connection = Connection::new();
    let one = connection.attach(1, USUAL, 0, 0);
    let two = connection.attach(2, USUAL, 1000, 50);
    connection.flow(1);
    connection.flow(2);
    let frames = [
        part(1, Some(0), b"one-", true),
        part(2, Some(9), b"two-", true),
        part(1, None, b"and", true),
        event(1, 99, b"!")[..0].to_vec(),
        part(2, None, b"half", false),
        part(1, None, b"-more", false),
        event(2, 10, b"second"),
    ];
    assert!(connection.receive(&frames.concat()).unwrap().is_empty());
    assert_eq!(bodies(&one), ["one-and-more"]);
    assert_eq!(bodies(&two), ["two-half", "second"]);
    assert_eq!(connection.flow(1).delivery_count, Some(1));
    assert_eq!(connection.flow(2).delivery_count, Some(52));
    assert_eq!(connection.flow(2).next_incoming_id, Some(1003));
    // One session ends and its number is used again.
    let end = frame(101, Performative::End(EndOfSession { error: None }), &[]);
    assert_eq!(connection.receive(&end).unwrap(), end);
    let again = connection.attach(1, USUAL, 5, 0);
    assert_eq!(connection.flow(1).next_incoming_id, Some(5));
    connection.receive(&event(1, 0, b"new")).unwrap();
    assert_eq!(bodies(&again), ["new"]);
    assert!(bodies(&one).is_empty());
}

#[test]
fn an_aborted_message_never_was() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    let mut aborted = transfer(7, None, true, false);
    aborted.aborted = true;
    let frames = [
        part(1, Some(0), b"half", true),
        frame(101, Performative::Transfer(aborted), b"of it"),
        event(1, 1, b"whole"),
    ];
    connection.receive(&frames.concat()).unwrap();
    assert_eq!(bodies(&link), ["whole"]);
    let flow = connection.flow(1);
    assert_eq!(
        (flow.delivery_count, flow.next_incoming_id),
        (Some(1), Some(3))
    );
    // A peer that counts it says so, and is believed as far as it takes credit from itself.
    let count = |count| {
        let Performative::Flow(mut flow) = flow_of_the_peer() else {
            unreachable!()
        };
        flow.delivery_count = Some(count);
        frame(101, Performative::Flow(flow), &[])
    };
    connection.receive(&count(2)).unwrap();
    assert_eq!(connection.flow(1).delivery_count, Some(2));
    for wrong in [0, 1, 5000, u32::MAX] {
        connection.receive(&count(wrong)).unwrap();
        assert_eq!(connection.flow(1).delivery_count, Some(2));
    }
}

fn flow_of_the_peer() -> Performative {
    flow(Some(7))
}

#[test]
fn more_events_than_credit_end_the_connection() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    let granted = connection.flow(1).link_credit.unwrap();
    let frames: Vec<u8> = (0..granted + 100)
        .flat_map(|id| event(1, id, b"x"))
        .collect();
    let error = connection.receive(&frames).unwrap_err();
    assert!(error.to_string().contains("credit"), "{error}");
    assert!(matches!(link.queue().why(), Some(End::Violation(why)) if why.contains("credit")));
    assert_eq!(
        bodies(&link).len(),
        granted as usize,
        "what it was asked for is good"
    );
    // Nothing at all may come before the first flow.
    let mut connection = Connection::new();
    let _link = connection.attach(1, USUAL, 0, 0);
    assert!(connection.receive(&event(1, 0, b"x")).is_err());
}

#[test]
fn an_echo_grants_nothing_twice() {
    let mut connection = Connection::new();
    let _link = connection.attach(1, USUAL, 0, 0);
    assert_eq!(connection.flow(1).link_credit, Some(8));
    for id in 0..8 {
        connection.receive(&event(1, id, b"x")).unwrap();
        // What the library answers to an echo: the credit that it was told to give.
        assert_eq!(connection.flow(1).link_credit, Some(7 - id));
    }
}

#[test]
fn a_theft_takes_what_is_waiting_and_other_ends_do_not() {
    for (error, left) in [
        (Some(LinkError::Stolen), 0),
        (Some(LinkError::DetachForced), 2),
        (None, 2),
    ] {
        let mut connection = Connection::new();
        let link = connection.attach(1, USUAL, 0, 0);
        connection.flow(1);
        let is_stolen = left == 0;
        let end = frame(101, detach(7, error), &[]);
        let frames = [event(1, 0, b"x"), event(1, 1, b"y"), end.clone()].concat();
        assert_eq!(connection.receive(&frames).unwrap(), end);
        assert_eq!(bodies(&link).len(), left);
        assert_eq!(link.queue().why() == Some(End::Stolen), is_stolen);
        // Its handle is nobody's now.
        let late = event(1, 2, &[0x00, 0x53, 0x75, 0xa0, 0]);
        assert_eq!(connection.receive(&late).unwrap(), late);
    }
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    let error = definitions::Error::new(SessionError::WindowViolation, None, None);
    let end = EndOfSession { error: Some(error) };
    let frames = [event(1, 0, b"x"), frame(101, Performative::End(end), &[])].concat();
    connection.receive(&frames).unwrap();
    assert_eq!(bodies(&link).len(), 1);
}

#[test]
fn unsettled_events_are_settled_with_the_next_flow() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    let frames: Vec<u8> = (20..25)
        .flat_map(|id| {
            let transfer = transfer(7, Some(id), false, false);
            frame(101, Performative::Transfer(transfer), b"x")
        })
        .collect();
    connection.receive(&frames).unwrap();
    assert_eq!(bodies(&link).len(), 5);
    let out = connection.send(1, flow(Some(0)));
    let size = u32::from_be_bytes(*out.first_chunk().unwrap()) as usize;
    let (_, disposition) = out.split_at(size);
    let size = u32::from_be_bytes(*disposition.first_chunk().unwrap()) as usize;
    assert_eq!(disposition.len(), size);
    assert_eq!(disposition[4..8], [2, 0, 0, 1]);
    let Performative::Disposition(Disposition {
        role,
        first,
        last,
        settled,
        state,
        ..
    }) = from_slice(&disposition[8..]).unwrap()
    else {
        panic!()
    };
    assert!(matches!(role, Role::Receiver) && settled);
    assert_eq!((first, last), (20, Some(24)));
    assert!(state.is_some_and(|state| state.is_accepted()));
    // Once: the next flow goes alone.
    connection.flow(1);
}

#[test]
fn a_message_that_is_too_large_is_told_and_the_next_is_fine() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    let chunk = vec![7; 60_000];
    let mut frames = part(1, Some(0), b"start", true);
    for _ in 0..40 {
        frames.extend(part(1, None, &chunk, true));
    }
    frames.extend(part(1, None, b"end", false));
    frames.extend(event(1, 1, b"next"));
    for chunk in frames.chunks(50_000) {
        connection.receive(chunk).unwrap();
    }
    let messages = link.queue().take(10).messages;
    let [Payload::TooLarge { start, len }, Payload::Whole(next)] = &messages[..] else {
        panic!("{}", messages.len())
    };
    assert!(start.starts_with(b"start") && start.len() <= 64 * 1024);
    assert_eq!(*len, 40 * 60_000 + 8);
    assert_eq!(next, "next");
    assert_eq!(connection.flow(1).delivery_count, Some(2));
}

#[test]
fn a_jump_of_the_sizes_costs_the_link_and_no_memory() {
    let mut connection = Connection::new();
    let link = connection.attach(1, (300, MIB), 0, 0);
    // Small events until the credit is full.
    let mut id = 0;
    let mut granted = connection.flow(1).link_credit.unwrap();
    for _ in 0..2000 {
        connection.receive(&event(1, id, &[7; 100])).unwrap();
        id += 1;
        granted -= 1;
        // What was taken counts until the next call.
        let taken = [link.queue().take(10), link.queue().take(10)];
        if taken.iter().any(|taken| taken.owes_credit) {
            granted = connection.flow(1).link_credit.unwrap();
        }
    }
    assert!(granted >= 150, "{granted}");
    let large = vec![7; 500_000];
    for _ in 0..granted {
        let mut chunks = large.chunks(60_000).peekable();
        let mut first = Some(id);
        while let Some(chunk) = chunks.next() {
            let bytes = part(1, first.take(), chunk, chunks.peek().is_some());
            connection.receive(&bytes).unwrap();
        }
        id += 1;
        assert!(link.queue().buffered_bytes() <= MIB + large.len());
    }
    // What fits is handed out; only then is it said that more came.
    let mut seen = 0;
    loop {
        let taken = link.queue().take(10);
        if taken.messages.is_empty() {
            assert_eq!(taken.end, Some(End::Overrun));
            break;
        }
        seen += taken.messages.len();
    }
    assert_eq!(seen, 3);
}

#[test]
fn few_small_events_do_not_keep_many_buffers() {
    let mut connection = Connection::new();
    let slow = connection.attach(1, USUAL, 0, 0);
    let fast = connection.attach(2, (5000, 8 * MIB), 0, 0);
    connection.flow(1);
    connection.flow(2);
    let filler = vec![7; 60_000];
    let (mut slow_id, mut fast_id) = (0, 0);
    // Enough rounds for the slow one to get its full credit first.
    for _ in 0..400 {
        connection.receive(&event(1, slow_id, b"small")).unwrap();
        slow_id += 1;
        if slow.queue().take(1).owes_credit {
            connection.flow(1);
        }
    }
    let before = connection.guard.buffers();
    // The application keeps these, so that their buffers live.
    let mut kept = Vec::new();
    for _ in 0..100 {
        connection.receive(&event(1, slow_id, b"small")).unwrap();
        connection.receive(&event(2, fast_id, &filler)).unwrap();
        slow_id += 1;
        fast_id += 1;
        let taken = [fast.queue().take(10), fast.queue().take(10)];
        if taken.iter().any(|taken| taken.owes_credit) {
            connection.flow(2);
        }
        kept.extend(taken.into_iter().flat_map(|taken| taken.messages));
    }
    assert!(connection.guard.buffers() - before > 80);
    let alive = bodies(&slow)
        .iter()
        .filter(|bytes| !bytes.is_unique())
        .count();
    assert!((1..=18).contains(&alive), "{alive} slices of read buffers");
    assert_eq!(kept.len(), 100);
}

#[test]
fn what_comes_for_a_receiver_that_is_gone_is_thrown_away() {
    let mut connection = Connection::new();
    let link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    connection.receive(&event(1, 0, b"x")).unwrap();
    drop(link);
    connection.receive(&event(1, 1, b"y")).unwrap();
    connection.send(1, detach(0, None));
    connection.receive(&event(1, 2, b"z")).unwrap();
    let end = frame(101, detach(7, None), &[]);
    assert_eq!(connection.receive(&end).unwrap(), end);
}

#[test]
fn the_library_is_told_that_the_peer_is_there() {
    let mut connection = Connection::new();
    let _link = connection.attach(1, USUAL, 0, 0);
    connection.flow(1);
    assert!(connection.receive(&event(1, 0, b"x")).unwrap().is_empty());
    connection.guard.reassure();
    let heartbeat = [0, 0, 0, 8, 2, 0, 0, 0];
    assert_eq!(connection.receive(&[]).unwrap(), heartbeat);
    connection.guard.reassure();
    assert!(connection.receive(&[]).unwrap().is_empty());
}

proptest! {
    /// Any messages, in frames of any size, over any links, in a stream cut anywhere: each arrives once, whole and in
    /// the order of its link, and the flows are right.
    #[test]
    fn messages_arrive_whole_and_in_order(
        messages in proptest::collection::vec((0u16..3, 0usize..3000, 1usize..1000), 1..20),
        cut in 1usize..2000,
        first in any::<u32>(),
    ) {
        let mut connection = Connection::new();
        let links: Vec<_> = (0..3).map(|n| connection.attach(n, USUAL, first, !first)).collect();
        let mut expected = vec![Vec::new(); 3];
        let mut frames = [0u32; 3];
        for n in 0..3 {
            connection.flow(n);
        }
        for (id, (n, len, step)) in messages.into_iter().enumerate() {
            let link = usize::from(n);
            let body: Vec<u8> = (0..len).map(|at| (at + id) as u8).collect();
            let mut bytes = Vec::new();
            let mut start = Some(id as u32);
            let mut chunks = body.chunks(step).peekable();
            loop {
                let chunk = chunks.next().unwrap_or_default();
                let more = chunks.peek().is_some();
                bytes.extend(part(n, start.take(), chunk, more));
                frames[link] = frames[link].wrapping_add(1);
                if !more {
                    break;
                }
            }
            for chunk in bytes.chunks(cut) {
                prop_assert!(connection.receive(chunk).unwrap().is_empty());
            }
            expected[link].push(body);
            // Some are taken at once, so that the credit grows; the others wait.
            if id % 3 == 0 || expected[link].len() == 5 {
                let got = bodies(&links[link]);
                prop_assert_eq!(&got, &expected[link]);
                expected[link].clear();
                links[link].queue().take(0);
            }
            let flow = connection.flow(n);
            prop_assert_eq!(flow.next_incoming_id, Some(first.wrapping_add(frames[link])));
        }
        for (link, expected) in links.iter().zip(expected) {
            prop_assert_eq!(bodies(link), expected);
        }
    }
}
