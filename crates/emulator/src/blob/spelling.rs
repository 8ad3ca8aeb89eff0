//! The case in which metadata names came over the wire.
//!
//! HTTP header names have no case and hyper gives them in lower case, but the service shows
//! metadata names as they were written.
//!
//! INTEROP: the Python and JavaScript checkpoint stores look up exactly `ownerid`; a record
//! written as `OwnerId` makes them fail, which only an endpoint that keeps the case can show.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::metadata::HEADER_PREFIX;

/// Names remembered for one connection; one that writes more kinds of names is not an SDK.
const MAX_NAMES: usize = 256;
/// The longest name remembered.
const MAX_NAME: usize = 512;

/// The last spelling of each metadata name seen on one connection, by lower-case name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spelling(Arc<Mutex<BTreeMap<String, String>>>);

impl Spelling {
    /// The spelling of `name`, if it is not all lower case.
    pub(crate) fn of(&self, name: &str) -> Option<String> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned()
    }

    fn learn(&self, name: &str) {
        let lower = name.to_ascii_lowercase();
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lower == name {
            names.remove(&lower);
        } else if names.len() < MAX_NAMES || names.contains_key(&lower) {
            names.insert(lower, name.to_owned());
        }
    }
}

/// Collects lines that begin like a metadata header, up to their colon.
///
/// It does not follow the framing of messages: a body with such a line can change nothing but the
/// case of a name on its own connection.
#[derive(Debug)]
struct Scanner {
    line: Vec<u8>,
    skip: bool,
}

impl Scanner {
    fn feed(&mut self, bytes: &[u8], spelling: &Spelling) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    self.line.clear();
                    self.skip = false;
                }
                _ if self.skip => {}
                b':' => {
                    self.skip = true;
                    let name = self.line.get(HEADER_PREFIX.len()..).unwrap_or_default();
                    if let Ok(name) = std::str::from_utf8(name)
                        && !name.is_empty()
                    {
                        spelling.learn(name);
                    }
                }
                _ => {
                    let expected = HEADER_PREFIX.as_bytes().get(self.line.len());
                    self.skip = expected.is_some_and(|b| *b != byte.to_ascii_lowercase())
                        || self.line.len() >= HEADER_PREFIX.len() + MAX_NAME;
                    self.line.push(byte);
                }
            }
        }
    }
}

/// A connection that notes the spelling of metadata names as it is read.
#[derive(Debug)]
pub(crate) struct Noted<S> {
    stream: S,
    scanner: Scanner,
    spelling: Spelling,
}

impl<S> Noted<S> {
    /// Wraps a connection and gives the place where the spellings are.
    pub(crate) fn new(stream: S) -> (Self, Spelling) {
        let spelling = Spelling::default();
        let noted = Self {
            stream,
            scanner: Scanner {
                line: Vec::new(),
                skip: false,
            },
            spelling: spelling.clone(),
        };
        (noted, spelling)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) {
            let new = buf.filled().get(before..).unwrap_or_default();
            this.scanner.feed(new, &this.spelling);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_survive_any_cut_of_the_stream() {
        let text =
            b"PUT / HTTP/1.1\r\nX-MS-Meta-OwnerId: a\r\nx-ms-meta-offset:1\r\nx-ms-date: b\r\n\r\n";
        for size in 1..text.len() {
            let (mut noted, spelling) = Noted::new(());
            for part in text.chunks(size) {
                noted.scanner.feed(part, &spelling);
            }
            assert_eq!(spelling.of("ownerid").as_deref(), Some("OwnerId"));
            assert_eq!(spelling.of("offset"), None);
        }
    }

    #[test]
    fn the_last_spelling_counts() {
        let (mut noted, spelling) = Noted::new(());
        noted.scanner.feed(b"\nx-ms-meta-A:\n", &spelling);
        noted.scanner.feed(b"x-ms-meta-a:\n", &spelling);
        assert_eq!(spelling.of("a"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut noted, spelling) = Noted::new(());
        noted.scanner.feed(b"x-ms-meta-", &spelling);
        noted.scanner.feed(&vec![b'A'; 100_000], &spelling);
        assert!(noted.scanner.line.len() < 1_000);
        for i in 0..1_000 {
            noted
                .scanner
                .feed(format!("\nx-ms-meta-A{i}:").as_bytes(), &spelling);
        }
        assert!(spelling.0.lock().unwrap().len() <= MAX_NAMES);
    }
}
