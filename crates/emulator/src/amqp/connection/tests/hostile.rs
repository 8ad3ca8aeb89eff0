//! Frames and bytes no good peer would send.

use proptest::prelude::*;

use super::*;
use crate::amqp::incomplete::Incomplete;

fn field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(vec![0x40]),
        4 => (0_u8..4).prop_map(|n| vec![0x52, n]),
        2 => any::<u32>().prop_map(|n| [&[0x70][..], &n.to_be_bytes()].concat()),
        2 => any::<bool>().prop_map(|b| vec![if b { 0x41 } else { 0x42 }]),
        1 => Just(b"\xa1\x04$cbs".to_vec()),
        1 => Just(b"\x00\x53\x28\xc0\x07\x01\xa1\x04$cbs".to_vec()),
        1 => Just(b"\x00\x53\x29\xc0\x06\x01\xa1\x03hub".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ]
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(field(), 0..14);
    (
        0_u8..4,
        0x10_u8..0x19,
        fields,
        prop::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(channel, code, fields, payload)| {
            let list = fields.concat();
            let mut body = vec![0x00, 0x53, code, 0xd0];
            body.extend_from_slice(&(list.len() as u32 + 4).to_be_bytes());
            body.extend_from_slice(&(fields.len() as u32).to_be_bytes());
            body.extend_from_slice(&list);
            body.extend_from_slice(&payload);
            let mut frame = (body.len() as u32 + 8).to_be_bytes().to_vec();
            frame.extend_from_slice(&[2, 0, 0, channel]);
            frame.extend_from_slice(&body);
            frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_frames_cause_a_panic_or_much_output(frames in prop::collection::vec(frame(), 1..20)) {
        let mut peer = Peer::opened();
        peer.attach(0, false, "hub");
        peer.attach(1, true, "hub/ConsumerGroups/$Default/Partitions/0");
        peer.attach(2, false, "$cbs");
        peer.attach(3, true, "$cbs");
        for frame in &frames {
            peer.bytes(frame);
            peer.signals();
            peer.later(Duration::from_millis(3));
        }
        prop_assert!(peer.connection.output().remaining() < 20_000);
        peer.output();
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut peer = Peer::new();
        peer.bytes(&bytes);
        let mut peer = Peer::opened();
        peer.bytes(&bytes);
        peer.later(Duration::from_secs(100));
    }
}

#[test]
fn messages_that_never_end_share_a_bound() {
    let mut peer = Peer::with(Keys::default(), |service| {
        service.incomplete = Incomplete::with_limit(1000);
    })
    .open();
    for handle in 0..3 {
        peer.attach(handle, false, "hub");
    }
    peer.output();
    peer.send(0, 0, true, &[0; 400]);
    peer.send(1, 1, true, &[0; 400]);
    assert!(peer.output().is_empty());
    peer.send(2, 2, true, &[0; 400]);
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::DETACH]);
    assert!(format!("{:?}", got[0].2).contains("resource-limit-exceeded"));

    // What the others keep counts until they end or are cut off.
    peer.send(0, 0, false, b"");
    peer.frame(0, descriptor::DETACH, |f| {
        f.uint(1).boolean(true);
    });
    peer.attach(3, false, "hub");
    peer.output();
    let message = [&b"\x00\x53\x75\xb0\x00\x00\x03\x20"[..], &[7; 800]].concat();
    peer.send(3, 3, true, &message[..500]);
    peer.send(3, 3, false, &message[500..]);
    peer.later(Duration::from_millis(3));
    let got = peer.output();
    assert_eq!(codes(&got), [descriptor::DISPOSITION], "{got:?}");
}
