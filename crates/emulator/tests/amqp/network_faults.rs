//! Faults of ports, TLS and WebSockets.

use std::io::ErrorKind;
use std::time::Duration;

use eventhubs_emulator::{Emulator, ResetStage, TlsFault};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

use super::network::{emulator, request, tls};
use super::support::{Client, PATIENCE, Reading, receive, text};

const HEADER: &[u8] = b"AMQP\x00\x01\x00\x00";

type Socket = WebSocketStream<TcpStream>;

async fn upgrade(emulator: &Emulator) -> Result<Socket, tungstenite::Error> {
    let port = emulator.ws_addr().unwrap().port();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = request(port, "/$servicebus/websocket", "AMQPWSB10");
    let upgraded = tokio_tungstenite::client_async(request, stream);
    let (socket, _) = timeout(PATIENCE, upgraded).await.unwrap()?;
    Ok(socket)
}

async fn next(socket: &mut Socket) -> Message {
    let next = timeout(PATIENCE, socket.next()).await.unwrap();
    next.unwrap().unwrap()
}

/// A socket that has said hello, so that the emulator knows it.
async fn opened(emulator: &Emulator) -> Socket {
    let mut socket = upgrade(emulator).await.unwrap();
    let hello = Message::Binary(HEADER.to_vec().into());
    socket.send(hello).await.unwrap();
    assert_eq!(next(&mut socket).await.into_data(), HEADER);
    socket
}

#[tokio::test]
async fn a_client_sees_what_is_wrong_with_a_certificate() {
    let emulator = emulator().await;
    let port = emulator.tls_addr().unwrap().port();
    for (fault, told) in [
        (TlsFault::Expired, "Expired"),
        (TlsFault::NotYetValid, "NotValidYet"),
        (TlsFault::SelfSigned, "UnknownIssuer"),
        (TlsFault::UnknownAuthority, "UnknownIssuer"),
        (TlsFault::WrongName, "NotValidForName"),
        (TlsFault::OldVersion, "PeerIncompatible"),
    ] {
        emulator.faults().disturb_tls(fault, 1);
        let refused = timeout(PATIENCE, tls(&emulator, port, "localhost"));
        let error = refused.await.unwrap().unwrap_err();
        assert!(format!("{error:?}").contains(told), "{fault:?}: {error:?}");
        tls(&emulator, port, "localhost").await.unwrap();
    }
    assert_eq!(emulator.faults().counts()["disturb_tls"], 6);
}

#[tokio::test]
async fn connections_are_reset_below_amqp() {
    let emulator = emulator().await;
    let port = emulator.tls_addr().unwrap().port();
    emulator.faults().reset_at(ResetStage::Tls, 1);
    let reset = timeout(PATIENCE, tls(&emulator, port, "localhost"));
    let error = reset.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error:?}");
    tls(&emulator, port, "localhost").await.unwrap();
    emulator.faults().reset_at(ResetStage::Upgrade, 1);
    assert!(upgrade(&emulator).await.is_err());
    upgrade(&emulator).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_is_refused_with_a_status() {
    let emulator = emulator().await;
    emulator.faults().refuse_upgrades(403, 2);
    for _ in 0..2 {
        match upgrade(&emulator).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 403),
            other => panic!("{:?}", other.map(drop)),
        }
    }
    opened(&emulator).await;
}

#[tokio::test]
async fn a_web_socket_is_closed_by_a_frame() {
    let emulator = emulator().await;
    let mut one = opened(&emulator).await;
    let mut other = opened(&emulator).await;
    let id = emulator.status().open_connections[0].id;
    let faults = emulator.faults();
    let one_alone = faults.on_connection(id);
    assert_eq!(one_alone.close_web_sockets(1001, "going away"), 1);
    let expected = CloseFrame {
        code: 1001.into(),
        reason: "going away".into(),
    };
    assert_eq!(next(&mut one).await, Message::Close(Some(expected)));
    assert!(!matches!(one.next().await, Some(Ok(_))), "nothing follows");
    // The other is still there.
    assert_eq!(faults.ping_web_sockets(1), 1);
    assert!(next(&mut other).await.is_ping());
}

#[tokio::test]
async fn pings_come_in_a_flood_and_events_with_them() {
    const COUNT: u32 = 20_000;
    let emulator = emulator().await;
    let mut socket = opened(&emulator).await;
    assert_eq!(emulator.faults().ping_web_sockets(COUNT), 1);
    let mut pings = 0;
    while pings < COUNT {
        assert!(next(&mut socket).await.is_ping());
        pings += 1;
    }
    assert_eq!(emulator.connection_count(), 1);
}

#[tokio::test]
async fn messages_come_in_fragments_with_pings_between() {
    let emulator = emulator().await;
    let mut socket = upgrade(&emulator).await.unwrap();
    emulator.faults().fragment_web_sockets(3, 1);
    let hello = Message::Binary(HEADER.to_vec().into());
    socket.send(hello).await.unwrap();
    let mut pings = 0;
    let message = loop {
        match next(&mut socket).await {
            Message::Ping(_) => pings += 1,
            other => break other,
        }
    };
    assert_eq!((message.into_data().as_ref(), pings), (HEADER, 2));
    assert_eq!(emulator.faults().counts()["fragment_web_sockets"], 1);
}

#[tokio::test]
async fn ports_are_closed_and_opened_again() {
    let emulator = emulator().await;
    emulator.send("hub", Some("0"), "x").unwrap();
    let mut client = Client::connect(&emulator).await;
    emulator.faults().refuse_connections(true);
    let refused = async {
        loop {
            match TcpStream::connect(emulator.amqp_addr()).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                // One that was on its way is reset, or served.
                other => drop(other),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    // Who is connected stays so.
    let mut receiver = client.receiver("0", Reading::default()).await;
    assert_eq!(text(&receive(&mut receiver).await), "x");
    emulator.faults().refuse_connections(false);
    let connected = async {
        while TcpStream::connect(emulator.amqp_addr()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, connected).await.unwrap();
    Client::connect(&emulator).await;
}
