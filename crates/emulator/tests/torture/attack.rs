//! Strangers: random bytes, and real traffic that is not as it was.

use std::fmt;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::proxy::Captures;
use super::target::{OURS, Ports, THEIRS};

/// Numbers that decoders get wrong.
const ODD: [&[u8]; 8] = [
    &[0xff; 4],
    &[0; 4],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xd0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xf0, 0, 0, 0, 5, 0, 0, 0xff, 0xff, 0x40],
    &[0xb0, 0xff, 0xff, 0xff, 0xff],
    b"\r\n\r\n",
];

const UPGRADE: &str = "GET /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: AMQPWSB10\r\n\r\n";

/// How much was thrown.
#[derive(Clone, Copy, Default)]
pub(crate) struct Thrown {
    connections: u64,
    bytes: u64,
}

impl AddAssign for Thrown {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.bytes += other.bytes;
    }
}

impl fmt::Display for Thrown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.bytes / (1 << 20);
        write!(f, "{} hostile connections with {mib} MiB", self.connections)
    }
}

pub(crate) struct Attack {
    ports: Ports,
    amqp: Captures,
    blob: Captures,
    tls: TlsConnector,
    rng: SmallRng,
    thrown: Thrown,
}

impl Attack {
    pub(crate) fn new(ports: Ports, amqp: Captures, blob: Captures, rng: SmallRng) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        Self {
            ports,
            amqp,
            blob,
            tls: TlsConnector::from(Arc::new(config)),
            rng,
            thrown: Thrown::default(),
        }
    }

    pub(crate) async fn run(mut self, peace: Arc<AtomicBool>) -> Thrown {
        while !peace.load(Ordering::Relaxed) {
            // Whatever happens to an attacker is all right.
            let attack = Box::pin(self.once());
            timeout(Duration::from_secs(5), attack).await.ok();
            let pause = self.rng.random_range(0..60);
            sleep(Duration::from_millis(pause)).await;
        }
        self.thrown
    }

    async fn once(&mut self) -> Option<()> {
        let ports = self.ports.clone();
        let is_random = self.rng.random_bool(0.3);
        match self.rng.random_range(0..8) {
            0..=2 => {
                let bytes = if is_random {
                    self.random()
                } else {
                    self.amqp_traffic()
                };
                self.throw(connect(ports.amqp).await?, &bytes).await;
            }
            3 => {
                let stream = connect(ports.tls).await?;
                if is_random {
                    let bytes = self.random();
                    self.throw(stream, &bytes).await;
                } else {
                    let bytes = self.amqp_traffic();
                    let stream = self.greet(stream).await?;
                    self.throw(stream, &bytes).await;
                }
            }
            4 => {
                let bytes = if is_random {
                    self.random()
                } else {
                    self.web_socket_traffic()
                };
                self.throw(connect(ports.ws).await?, &bytes).await;
            }
            5 => {
                let bytes = if is_random {
                    self.random()
                } else {
                    self.web_socket_traffic()
                };
                let stream = self.greet(connect(ports.wss).await?).await?;
                self.throw(stream, &bytes).await;
            }
            6 => {
                let bytes = if is_random {
                    self.random()
                } else {
                    self.blob_traffic()
                };
                self.throw(connect(ports.blob).await?, &bytes).await;
            }
            _ => {
                let bytes = if is_random {
                    self.random()
                } else {
                    self.orders()
                };
                self.throw(connect(ports.control).await?, &bytes).await;
            }
        }
        Some(())
    }

    async fn greet(&self, stream: TcpStream) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        self.tls.connect(name, stream).await.ok()
    }

    /// Sends bytes as they should not be cut, reads a little or nothing, and goes without a word or stays a while.
    async fn throw<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &mut self,
        mut stream: S,
        bytes: &[u8],
    ) {
        self.thrown.connections += 1;
        let mut rest = bytes;
        let mut buf = vec![0; 16 * 1024];
        while !rest.is_empty() {
            let len = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(1..20),
                1 => self.rng.random_range(1..2000),
                _ => rest.len(),
            };
            let (chunk, tail) = rest.split_at(len.min(rest.len()));
            if stream.write_all(chunk).await.is_err() {
                return;
            }
            self.thrown.bytes += chunk.len() as u64;
            rest = tail;
            if self.rng.random_bool(0.1) {
                let read = stream.read(&mut buf);
                timeout(Duration::from_millis(2), read).await.ok();
            }
        }
        stream.flush().await.ok();
        match self.rng.random_range(0..10) {
            0..=4 => {
                let linger = self.rng.random_range(0..200);
                let reading = async { while let Ok(1..) = stream.read(&mut buf).await {} };
                timeout(Duration::from_millis(linger), reading).await.ok();
            }
            5 => {
                stream.shutdown().await.ok();
                sleep(Duration::from_millis(100)).await;
            }
            6 => sleep(Duration::from_secs(3)).await,
            _ => {}
        }
    }

    fn random(&mut self) -> Vec<u8> {
        let len = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..200_000),
            _ => self.rng.random_range(0..300),
        };
        let mut bytes = vec![0; len];
        self.rng.fill_bytes(&mut bytes);
        let starts: [&[u8]; 5] = [
            b"",
            b"AMQP\x00\x01\x00\x00",
            b"AMQP\x03\x01\x00\x00",
            b"GET /",
            b"\x16\x03\x01",
        ];
        [starts.choose(&mut self.rng).unwrap(), &bytes[..]].concat()
    }

    /// What a client has once sent, against the other event hub, and disfigured more often than not.
    fn amqp_traffic(&mut self) -> Vec<u8> {
        let bytes = capture(&self.amqp, &mut self.rng);
        let bytes = replace(bytes, OURS.as_bytes(), THEIRS.as_bytes());
        self.disfigure(bytes)
    }

    fn blob_traffic(&mut self) -> Vec<u8> {
        let bytes = capture(&self.blob, &mut self.rng);
        self.disfigure(bytes)
    }

    fn web_socket_traffic(&mut self) -> Vec<u8> {
        let upgrade = if self.rng.random_bool(0.2) {
            self.disfigure(UPGRADE.as_bytes().to_vec())
        } else {
            UPGRADE.as_bytes().to_vec()
        };
        let mut bytes = upgrade;
        for message in self.amqp_traffic().chunks(1000) {
            // Masked with zeros, a message is as it was.
            bytes.extend_from_slice(&[0x82, 0xfe]);
            bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(message);
        }
        if self.rng.random_bool(0.3) {
            bytes = self.disfigure(bytes);
        }
        bytes
    }

    /// Nothing that is carried out: the body has no content type.
    fn orders(&mut self) -> Vec<u8> {
        let body = "{\"fault\":\"reset_at\",\"stage\":\"open\"}";
        let request = format!(
            "POST /faults HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.disfigure(request.into_bytes())
    }

    fn disfigure(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.rng.random_range(0..6) {
            if bytes.is_empty() {
                break;
            }
            let at = self.rng.random_range(0..bytes.len());
            let end = (at + self.rng.random_range(1..200)).min(bytes.len());
            match self.rng.random_range(0..7) {
                0 => bytes[at] ^= 1 << self.rng.random_range(0..8),
                1 => bytes[at] = self.rng.random(),
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                5 => {
                    let odd = *ODD.choose(&mut self.rng).unwrap();
                    let end = (at + odd.len()).min(bytes.len());
                    bytes.splice(at..end, odd.iter().copied());
                }
                _ => bytes[at..end].shuffle(&mut self.rng),
            }
        }
        bytes
    }
}

fn capture(captures: &Captures, rng: &mut SmallRng) -> Vec<u8> {
    let captures = captures.lock().unwrap();
    captures.choose(rng).cloned().unwrap_or_default()
}

async fn connect(address: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect(address).await.ok()
}

fn replace(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut at = 0;
    while at + from.len() <= bytes.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + from.len()].copy_from_slice(to);
        }
        at += 1;
    }
    bytes
}

/// Attackers do not care whom they attack.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
