//! The head of an HTTP answer: a status and some headers, and not a byte more.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes of a head. Those of proxies and gateways are below one KiB.
pub(super) const MAX_BYTES: usize = 16 * 1024;
/// Most headers in it.
pub(super) const MAX_HEADERS: usize = 64;

/// Status and headers of an answer to an upgrade or a `CONNECT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Reads up to the empty line. It goes byte by byte, because what follows belongs to somebody else; that happens once
    /// for a connection.
    ///
    /// # Errors
    ///
    /// `InvalidData` for what is no HTTP/1 or too long, `UnexpectedEof` for a stream that ends before.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if bytes.len() == MAX_BYTES {
                return Err(invalid("the HTTP answer is too long"));
            }
            bytes.push(stream.read_u8().await?);
            // Whoever speaks another protocol is not listened to for long.
            if bytes.len() == 5 && bytes != b"HTTP/" {
                return Err(invalid("the answer is not HTTP"));
            }
        }
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        // All of it: one that ends its lines in another way could end before, and the rest would be lost.
        let is_whole = answer.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()));
        let Some(status) = answer.code.filter(|_| is_whole) else {
            return Err(invalid("the answer is not HTTP/1"));
        };
        let headers = answer.headers.iter();
        Ok(Self {
            status,
            headers: headers
                .map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec()))
                .collect(),
        })
    }

    /// The first header of a name in lower case, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok().map(str::trim)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn read(mut bytes: &[u8]) -> (io::Result<Head>, usize) {
        let head = Head::read(&mut bytes).await;
        (head, bytes.len())
    }

    #[tokio::test]
    async fn what_follows_is_left() {
        let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nPROXY-authenticate:  Basic \r\n\r\nAMQP";
        let (head, left) = read(answer).await;
        let head = head.unwrap();
        assert_eq!(head.status, 407);
        assert_eq!(head.header("proxy-authenticate"), Some("Basic"));
        assert_eq!(head.header("other"), None);
        assert_eq!(left, 4);
    }

    #[tokio::test]
    async fn heads_have_limits() {
        let long = [
            b"HTTP/1.1 200 OK\r\nx: ".to_vec(),
            vec![b'a'; 20_000],
            b"\r\n\r\n".to_vec(),
        ]
        .concat();
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(65));
        for (bytes, kind) in [
            (&long[..], io::ErrorKind::InvalidData),
            (many.as_bytes(), io::ErrorKind::InvalidData),
            (b"AMQP\x03\x01\x00\x00", io::ErrorKind::InvalidData),
            (b"HTTP/2 200\r\n\r\n", io::ErrorKind::InvalidData),
            // What stands between the two ends would be lost.
            (
                b"HTTP/1.1 200 OK\n\nAMQP\r\n\r\n",
                io::ErrorKind::InvalidData,
            ),
            (b"HTTP/1.1 200 OK\r\n", io::ErrorKind::UnexpectedEof),
            (b"", io::ErrorKind::UnexpectedEof),
        ] {
            let (head, _) = read(bytes).await;
            assert_eq!(head.unwrap_err().kind(), kind);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_head_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Head::parse(&bytes);
            let _ = Head::parse(&[&b"HTTP/1.1 "[..], &bytes, b"\r\n\r\n"].concat());
        }
    }
}
