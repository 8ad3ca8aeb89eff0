//! A blob endpoint that answers from a script, byte for byte, and remembers what it was asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What to do with one request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Send these bytes.
    Reply(String),
    /// Send these bytes and then nothing more, with the connection kept open.
    ReplyAndHang(String),
    /// Send these bytes and close.
    ReplyAndClose(String),
    /// Never answer.
    Hang,
    /// Close without an answer. What the request asked for may have been done.
    Close,
}

/// The endpoint; it stops when dropped.
#[derive(Debug)]
pub(super) struct ScriptedBlob {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl ScriptedBlob {
    pub(super) async fn start(script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Mutex<VecDeque<Act>>> = Arc::new(Mutex::new(script.into_iter().collect()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of all requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for ScriptedBlob {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Mutex<VecDeque<Act>>>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    loop {
        let mut head = Vec::new();
        // No request of the store has a body.
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        seen.lock()
            .unwrap()
            .push(String::from_utf8_lossy(&head).into_owned());
        let act = script.lock().unwrap().pop_front();
        match act.expect("a request that the script does not know of") {
            Act::Reply(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Act::ReplyAndHang(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                return std::future::pending().await;
            }
            Act::ReplyAndClose(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                return;
            }
            Act::Hang => return std::future::pending().await,
            Act::Close => return,
        }
    }
}

/// An answer with headers and a body, and what the service puts on all of its answers.
pub(super) fn reply(status: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\nServer: Windows-Azure-Blob/1.0\r\n\
         x-ms-request-id: 5f1e0a52-601e-004c-2f5b-5d9f6e000000\r\nx-ms-version: 2021-12-02\r\n"
    );
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    format!("{text}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A refusal with an error code.
pub(super) fn refusal(status: &str, code: &str) -> Act {
    Act::Reply(reply(status, &[("x-ms-error-code", code)], ""))
}

/// A write that went through.
pub(super) fn done(status: &str, etag: &str) -> Act {
    let quoted = format!("\"{etag}\"");
    let headers = [
        ("ETag", quoted.as_str()),
        ("Last-Modified", "Mon, 23 Nov 2026 09:59:59 GMT"),
        ("x-ms-request-server-encrypted", "true"),
    ];
    Act::Reply(reply(status, &headers, ""))
}

/// A `HEAD` answer with metadata.
pub(super) fn properties(etag: &str, metadata: &[(&str, &str)]) -> Act {
    let quoted = format!("\"{etag}\"");
    let names: Vec<String> = metadata
        .iter()
        .map(|(key, _)| format!("x-ms-meta-{key}"))
        .collect();
    let mut headers = vec![
        ("ETag", quoted.as_str()),
        ("Last-Modified", "Mon, 23 Nov 2026 09:59:59 GMT"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-server-encrypted", "true"),
    ];
    for (name, (_, value)) in names.iter().zip(metadata) {
        headers.push((name, value));
    }
    Act::Reply(reply("200 OK", &headers, ""))
}

/// A page of a listing.
pub(super) fn page(blobs: &[(&str, &str)], next_marker: &str) -> String {
    let mut body = String::from(
        r#"<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="x" ContainerName="c"><Blobs>"#,
    );
    for (name, metadata) in blobs {
        body += &format!(
            "<Blob><Name>{name}</Name><Properties><Last-Modified>Mon, 23 Nov 2026 09:59:30 GMT</Last-Modified>\
             <Etag>0x1</Etag><Content-Length>0</Content-Length>\
             <Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties><Metadata>{metadata}</Metadata></Blob>"
        );
    }
    body += &format!("</Blobs><NextMarker>{next_marker}</NextMarker></EnumerationResults>");
    reply("200 OK", &[("Content-Type", "application/xml")], &body)
}
