use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::time::{Duration, timeout};

use super::*;
use crate::transport::TransportType;

fn way(host: &str, port: u16) -> Way {
    Way {
        host: host.to_owned(),
        port,
        tls: true,
        transport_type: TransportType::AmqpWebSockets,
    }
}

/// A WebSocket and its bare other side.
fn pair() -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (WebSocket::new(ours), theirs)
}

/// A frame as servers send it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ 0..126 => vec![u8::try_from(short).unwrap()],
        middle @ 126..65_536 => {
            [&[126][..], &u16::try_from(middle).unwrap().to_be_bytes()].concat()
        }
        long => [&[127][..], &(long as u64).to_be_bytes()].concat(),
    };
    [&[first][..], &length, payload].concat()
}

/// What comes out of these bytes, in reads of at most so many bytes.
async fn through(bytes: &[u8], step: usize) -> io::Result<Vec<u8>> {
    let (mut socket, mut theirs) = pair();
    theirs.write_all(bytes).await?;
    theirs.shutdown().await?;
    let mut out = Vec::new();
    let mut buf = vec![0; step];
    loop {
        match socket.read(&mut buf).await? {
            0 => return Ok(out),
            count => out.extend_from_slice(&buf[..count]),
        }
    }
}

const BINARY: u8 = 0x82;
const PING: u8 = 0x89;

#[tokio::test]
async fn the_stream_is_what_data_frames_carry() {
    let large = vec![7; 70_000];
    let bytes = [
        frame(BINARY, b"AM"),
        frame(PING, b"are you there"),
        frame(BINARY, b""),
        // A message in three frames, with a pong between.
        frame(0x02, b"QP"),
        frame(0x8a, b""),
        frame(0x00, b"\0"),
        frame(0x80, b"\x01\0\0"),
        frame(BINARY, &large),
        frame(0x88, &[0x03, 0xe8]),
        frame(BINARY, b"after the end"),
    ]
    .concat();
    let expected = [&b"AMQP\0\x01\0\0"[..], &large].concat();
    for step in [1, 7, 100_000] {
        assert!(through(&bytes, step).await.unwrap() == expected, "{step}");
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_stream() {
    for (bytes, kind) in [
        (frame(0x81, b"text"), io::ErrorKind::InvalidData),
        (frame(0x80, b"of nothing"), io::ErrorKind::InvalidData),
        (
            [frame(0x02, b"a"), frame(BINARY, b"b")].concat(),
            io::ErrorKind::InvalidData,
        ),
        (frame(0xc2, b"compressed"), io::ErrorKind::InvalidData),
        (
            vec![BINARY, 0x81, 1, 2, 3, 4, 5],
            io::ErrorKind::InvalidData,
        ),
        (frame(0x83, b"reserved"), io::ErrorKind::InvalidData),
        (frame(0x09, b"ping in parts"), io::ErrorKind::InvalidData),
        (frame(PING, &[0; 126]), io::ErrorKind::InvalidData),
        (vec![BINARY, 5, 1], io::ErrorKind::UnexpectedEof),
        (vec![BINARY], io::ErrorKind::UnexpectedEof),
    ] {
        let error = through(&bytes, 100).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_frame_of_any_length_takes_no_memory() {
    let (mut socket, mut theirs) = pair();
    // All of 2^63 bytes, as far as the header says.
    let header = [&[BINARY, 127][..], &(1_u64 << 63).to_be_bytes()].concat();
    theirs.write_all(&header).await.unwrap();
    theirs.write_all(b"begins").await.unwrap();
    let mut buf = [0; 6];
    socket.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"begins");
}

/// Takes a frame of ours apart.
async fn sent(theirs: &mut DuplexStream) -> (u8, Vec<u8>) {
    let first = theirs.read_u8().await.unwrap();
    let second = theirs.read_u8().await.unwrap();
    assert!(second & 0x80 != 0, "clients mask");
    let length = match second & 0x7f {
        126 => usize::from(theirs.read_u16().await.unwrap()),
        127 => usize::try_from(theirs.read_u64().await.unwrap()).unwrap(),
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    theirs.read_exact(&mut mask).await.unwrap();
    let mut payload = vec![0; length];
    theirs.read_exact(&mut payload).await.unwrap();
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    (first, payload)
}

#[tokio::test]
async fn what_is_written_goes_out_masked_and_in_frames_of_a_bounded_size() {
    let (mut socket, mut theirs) = pair();
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    socket.write_all(&bytes).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let (first, payload) = sent(&mut theirs).await;
        assert_eq!(first, BINARY);
        assert!(payload.len() <= MAX_PAYLOAD);
        got.extend(payload);
    }
    assert!(got == bytes);
    assert_eq!(sent(&mut theirs).await, (0x88, vec![0x03, 0xe8]));
    assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn pings_are_answered_while_nothing_else_is_sent() {
    let (mut socket, mut theirs) = pair();
    theirs.write_all(&frame(PING, b"there?")).await.unwrap();
    let reading = timeout(Duration::from_millis(50), socket.read_u8()).await;
    assert!(reading.is_err());
    assert_eq!(sent(&mut theirs).await, (0x8a, b"there?".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_pings_and_does_not_read_costs_no_memory() {
    let (ours, mut theirs) = duplex(64);
    let mut socket = WebSocket::new(ours);
    let flood = tokio::spawn(async move {
        for _ in 0..20_000 {
            theirs.write_all(&frame(PING, &[b'x'; 125])).await.unwrap();
        }
        theirs
    });
    let reading = async {
        while let Err(_elapsed) = timeout(Duration::from_millis(1), socket.read_u8()).await {
            if flood.is_finished() {
                break;
            }
        }
    };
    timeout(Duration::from_secs(600), reading).await.unwrap();
    assert!(flood.is_finished());
    assert!(
        socket.unsent.capacity() <= 4 * MAX_UNSENT,
        "{}",
        socket.unsent.capacity()
    );
}

/// Upgrades against a server that answers so; `{accept}` stands for the right key.
async fn upgraded(way: &Way, answer: &str) -> (Result<(), UpgradeError>, String) {
    let (ours, mut theirs) = duplex(4096);
    let answer = answer.to_owned();
    let server = tokio::spawn(async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(theirs.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let (_, rest) = request.split_once("Sec-WebSocket-Key: ").unwrap();
        let accept = derive_accept_key(rest.split("\r\n").next().unwrap().as_bytes());
        let answer = answer.replace("{accept}", &accept);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        request
    });
    let result = upgrade(ours, way).await.map(drop);
    (result, server.await.unwrap())
}

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive, upgrade\r\n\
     Upgrade: WebSocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n";

#[tokio::test]
async fn the_upgrade_asks_for_amqp_and_names_the_host() {
    for (way, host) in [
        (way("ns.example", 443), "ns.example"),
        (way("ns.example", 8443), "ns.example:8443"),
        (way("::1", 443), "[::1]"),
    ] {
        let (result, request) = upgraded(&way, ACCEPTED).await;
        result.unwrap();
        let (first, _) = request.split_once("\r\n").unwrap();
        assert_eq!(first, "GET /$servicebus/websocket HTTP/1.1");
        assert!(
            request.contains(&format!("\r\nHost: {host}\r\n")),
            "{request}"
        );
        assert!(request.contains("\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n"));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_upgrade_is_none() {
    let way = way("ns.example", 443);
    let (refused, _) = upgraded(&way, "HTTP/1.1 403 Forbidden\r\n\r\n").await;
    assert!(matches!(
        refused,
        Err(UpgradeError::Refused { status: 403 })
    ));
    for (wrong, header) in [
        (ACCEPTED.replace("{accept}", "AAAA"), "sec-websocket-accept"),
        (
            ACCEPTED.replace("AMQPWSB10", "amqp"),
            "sec-websocket-protocol",
        ),
        (ACCEPTED.replace("WebSocket\r\n", "h2c\r\n"), "upgrade"),
        (ACCEPTED.replace(", upgrade", ""), "connection"),
    ] {
        let (result, _) = upgraded(&way, &wrong).await;
        match result.unwrap_err() {
            UpgradeError::Invalid { header: named } => assert_eq!(named, header),
            other => panic!("{other}"),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), step in 1_usize..50) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Ok(out) = runtime.block_on(through(&bytes, step)) {
            prop_assert!(out.len() <= bytes.len());
        }
    }
}
