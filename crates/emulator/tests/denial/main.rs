//! Peers that want the emulator to fall over, on real ports: each attack is told in the log, costs a bounded amount of
//! memory, and is not noticed by anybody else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

#[path = "../raw/mod.rs"]
mod raw;
#[path = "../amqp/support.rs"]
#[allow(dead_code, reason = "each user needs a part of it")]
mod support;
mod world;

use std::time::{Duration, Instant};

use raw::List;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::world::{Attacker, World, allocated, open, peak_above};

const MIB: usize = 1024 * 1024;

fn frame(kind: u8, channel: u16, body: &[u8]) -> Vec<u8> {
    let size = (body.len() as u32 + 8).to_be_bytes();
    let [high, low] = channel.to_be_bytes();
    [&size[..], &[2, kind, high, low], body].concat()
}

/// A performative whose first field is `value`.
fn with_field(code: u8, value: &[u8]) -> Vec<u8> {
    let size = (value.len() as u32 + 4).to_be_bytes();
    [&[0x00, 0x53, code, 0xd0][..], &size, &[0, 0, 0, 1], value].concat()
}

fn nested(depth: usize, wrap: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    (0..depth).fold(vec![0x40], |inner, _| wrap(&inner))
}

fn list32(inner: &[u8]) -> Vec<u8> {
    let size = (inner.len() as u32 + 4).to_be_bytes();
    [&[0xd0][..], &size, &[0, 0, 0, 1], inner].concat()
}

fn map32(inner: &[u8]) -> Vec<u8> {
    let size = (inner.len() as u32 + 5).to_be_bytes();
    [&[0xd1][..], &size, &[0, 0, 0, 2, 0x41], inner].concat()
}

fn described(inner: &[u8]) -> Vec<u8> {
    [&[0x00, 0x53, 0x77][..], inner].concat()
}

#[tokio::test]
async fn values_that_kill_decoders_end_their_connection_only() {
    let mut world = World::start().await;
    let bombs: [Vec<u8>; 8] = [
        nested(1000, list32),
        nested(1000, map32),
        nested(4000, described),
        b"\xf0\0\0\0\x05\x01\x31\x2d\x00\x41".to_vec(),
        b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40".to_vec(),
        b"\xb1\xff\xff\xff\xff".to_vec(),
        b"\xd0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\xc1\x02\x01\x40".to_vec(),
    ];
    let before = allocated();
    for bomb in &bombs {
        let sasl = frame(1, 0, &with_field(0x41, bomb));
        let before_open = frame(0, 0, &with_field(0x10, bomb));
        let attach = frame(0, 0, &with_field(0x12, bomb));
        for bytes in [
            [&b"AMQP\x03\x01\x00\x00"[..], &sasl].concat(),
            [&b"AMQP\x00\x01\x00\x00"[..], &before_open].concat(),
            [&open()[..], &attach].concat(),
        ] {
            let mut attacker = world.attacker().await;
            attacker.send(&bytes).await;
            attacker.until_cut_off().await;
        }
    }
    assert!(peak_above(before) < 8 * MIB);
    assert_eq!(
        world.log().matches("closing a bad peer").count(),
        3 * bombs.len()
    );
    world.others_are_fine().await;
}

#[tokio::test]
async fn all_channels_there_are_end_at_the_limit() {
    let mut world = World::start().await;
    let before = allocated();
    let mut attacker = world.attacker().await;
    attacker.send(&open()).await;
    let mut begin = List::new(0x11);
    begin.null().uint(0).uint(1).uint(1);
    let begin = begin.to_frame();
    for channel in 1..=u16::MAX {
        let begin = frame(0, channel, &begin[8..]);
        if !attacker.send(&begin).await {
            break;
        }
    }
    attacker.until_cut_off().await;
    assert!(peak_above(before) < 4 * MIB);
    assert!(world.log().contains("a channel number above 255"));
    world.others_are_fine().await;
}

#[tokio::test]
async fn a_million_sessions_one_after_the_other_leave_nothing() {
    const AT_ONCE: usize = 1000;
    let mut world = World::start().await;
    let mut begin = List::new(0x11);
    begin.null().uint(0).uint(1).uint(1);
    let pair = [&begin.to_frame()[8..], &List::new(0x17).to_frame()[8..]]
        .map(|body| frame(0, 1, body))
        .concat();
    let pairs = pair.repeat(AT_ONCE);
    let mut attacker = world.attacker().await;
    attacker.send(&open()).await;
    attacker.swallow(2).await;
    let before = allocated();
    for _ in 0..1_000_000 / AT_ONCE {
        assert!(attacker.send(&pairs).await);
        attacker.swallow(2 * AT_ONCE).await;
    }
    assert!(peak_above(before) < 4 * MIB);
    assert!(allocated().saturating_sub(before) < MIB);
    world.others_are_fine().await;
}

/// Whatever a port speaks, a client has to be past the greeting and the open in ten seconds.
#[tokio::test]
async fn slow_greetings_are_cut_off_on_every_port() {
    const HEAD: &[u8] =
        b"GET /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n";
    const HELLO: &[u8] = &[
        0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
    ];
    let mut world = World::start().await;
    let ports = world.ports();
    let header = b"AMQP\x00\x01\x00\x00\x00\x00\x10\x00\x02\x00\x00\x00";
    let slow = [
        (ports.amqp, &b""[..]),
        (ports.amqp, header),
        (ports.tls, HELLO),
        (ports.ws, HEAD),
        (ports.wss, HELLO),
    ];
    let started = Instant::now();
    let attacks = slow.map(|(address, bytes)| dribble(address, bytes));
    futures_util::future::join_all(attacks).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(9), "{took:?}");
    let log = world.log();
    assert_eq!(log.matches("no open within 10s").count(), 2, "{log}");
    assert_eq!(
        log.matches("took more than 10s before AMQP").count(),
        3,
        "{log}"
    );
    world.others_are_fine().await;
}

/// Sends a byte every half a second until the other side has had enough.
async fn dribble(address: std::net::SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut rest = bytes.iter();
    let mut buf = [0; 64];
    let waiting = async {
        loop {
            match timeout(Duration::from_millis(500), stream.read(&mut buf)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {}
                Err(_) => {
                    if let Some(byte) = rest.next() {
                        stream.write_all(&[*byte]).await.ok();
                    }
                }
            }
        }
    };
    timeout(Duration::from_secs(30), waiting).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_credit_with_no_reader_is_not_read_on() {
    let mut world = World::start().await;
    for n in 0..100 {
        world
            .emulator()
            .send("hub", Some("0"), &*format!("{n}"))
            .unwrap();
    }
    let mut attacker = world.attacker().await;
    let mut attach = List::new(0x12);
    let mut source = List::new(0x28);
    source.string("hub/ConsumerGroups/$Default/Partitions/0");
    attach.string("flood").uint(0).boolean(true).null().null();
    attach.list(&source).list(&List::new(0x29));
    attacker
        .send(&[&open()[..], &attach.to_frame()].concat())
        .await;
    let mut flow = List::new(0x13);
    flow.uint(0).uint(u32::MAX).uint(0).uint(u32::MAX);
    flow.uint(0).uint(0).uint(u32::MAX).null().boolean(false);
    // Echo: each flow asks for one back.
    flow.boolean(true);
    let flows = flow.to_frame().repeat(1000);
    let before = allocated();
    // Both sockets fill up, and then the emulator reads no more.
    let mut sent = 0;
    while attacker.send(&flows).await {
        sent += 1;
        assert!(sent < 2000, "100 MB and still reading");
    }
    assert!(peak_above(before) < 4 * MIB);
    // It is still there, and had flows in both directions until the sockets were full.
    assert!(sent > 0);
    world.connections_are(2).await;
    world.others_are_fine().await;
    drop(attacker);
    world.others_are_fine().await;
}

#[tokio::test]
async fn twenty_thousand_links_are_bounded_and_leave_nothing() {
    let mut world = World::start().await;
    let mut one = world.attacker().await;
    attach_many(&mut one, 1).await;
    drop(one);
    world.connections_are(1).await;
    let before = allocated();
    let mut attacker = world.attacker().await;
    attach_many(&mut attacker, 1000).await;
    for _ in 0..20 {
        attacker.send(&detaches(1000)).await;
        attacker.swallow(1000).await;
        attach_again(&mut attacker, 1000).await;
    }
    let held = allocated().saturating_sub(before);
    assert!(held < 8 * MIB, "{held}");
    drop(attacker);
    world.connections_are(1).await;
    let left = allocated().saturating_sub(before);
    assert!(left < MIB, "{left}");
    world.others_are_fine().await;
}

async fn attach_many(attacker: &mut Attacker, links: u32) {
    attacker.send(&open()).await;
    attacker.swallow(2).await;
    attach_again(attacker, links).await;
}

/// Senders: each attach is answered by an attach and a flow.
async fn attach_again(attacker: &mut Attacker, links: u32) {
    let attaches = (0..links).map(|handle| {
        let mut attach = List::new(0x12);
        let mut target = List::new(0x29);
        target.string("hub/Partitions/1");
        attach.string(&format!("link-{handle}")).uint(handle);
        attach.boolean(false).null().null();
        attach.list(&List::new(0x28)).list(&target);
        attach.to_frame()
    });
    attacker.send(&attaches.collect::<Vec<_>>().concat()).await;
    attacker.swallow(2 * links as usize).await;
}

fn detaches(links: u32) -> Vec<u8> {
    let detach = |handle| {
        let mut detach = List::new(0x16);
        detach.uint(handle).boolean(true);
        detach.to_frame()
    };
    (0..links).map(detach).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn connections_beyond_the_limit_are_dropped_and_the_rest_goes_on() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut world = World::start().await;
    let mut attackers = Vec::new();
    // The neighbour has one of the 1,024.
    for _ in 0..1023 {
        let mut attacker = world.attacker().await;
        attacker.send(&open()).await;
        attackers.push(attacker);
    }
    for attacker in &mut attackers {
        attacker.swallow(2).await;
    }
    let refused = world.attacker().await;
    refused.until_cut_off().await;
    assert!(world.log().contains("too many connections"));
    world.neighbour_is_fine().await;
    drop(attackers);
    world.connections_are(1).await;
    world.others_are_fine().await;
}
