//! The fuzz targets of the blob endpoint: bytes on a connection.

use std::io::Cursor;

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::server::{Requests, serve_stream};
use super::{
    BlobOptions, conditions::Conditions, metadata::Metadata, service::BlobService,
    state::ContentHeaders,
};

thread_local! {
    #[allow(clippy::expect_used, reason = "without a runtime there is nothing to try")]
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
}

/// Whatever a connection says, it is answered in HTTP, and bodies are XML where they say so.
pub(crate) fn http(data: &[u8]) {
    let options = BlobOptions {
        key: None,
        ..BlobOptions::default()
    };
    let reply = exchange(data, options);
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1."));
    // The answer to a HEAD has the length of a body and none.
    if !data.windows(4).any(|bytes| bytes == b"HEAD") {
        bodies(&reply);
    }
}

/// As [`http`], with signatures looked at: nobody gets in who has no key.
pub(crate) fn auth(data: &[u8]) {
    let options = BlobOptions {
        check_dates: false,
        ..BlobOptions::default()
    };
    let reply = exchange(data, options);
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1."));
}

fn exchange(data: &[u8], options: BlobOptions) -> Vec<u8> {
    let service = BlobService::new(options);
    {
        let now = service.options().clock.now();
        let mut store = service.store();
        let created = store.create_container("con", Metadata::default(), now);
        assert!(created.is_ok());
        for name in ["a/ownership/0", "a/ownership/1", "b\u{1}<&>"] {
            let upload = (
                bytes::Bytes::new(),
                ContentHeaders::default(),
                Metadata::default(),
            );
            let put = store.put_blob("con", name, upload, &Conditions::default(), now);
            assert!(put.is_ok());
        }
    }
    let mut reply = Vec::new();
    let stream = tokio::io::join(Cursor::new(data.to_vec()), &mut reply);
    let served = serve_stream(
        stream,
        service,
        Requests::default(),
        CancellationToken::new(),
    );
    RUNTIME.with(|runtime| runtime.block_on(served));
    reply
}

/// Walks from answer to answer.
fn bodies(mut replies: &[u8]) {
    const END: &[u8] = b"\r\n\r\n";
    while let Some(at) = replies.windows(END.len()).position(|bytes| bytes == END) {
        let (head, rest) = replies.split_at(at + END.len());
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let (body, rest) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        if head.contains("content-type: application/xml") && !body.is_empty() {
            well_formed(body);
        }
        replies = rest;
    }
}

fn well_formed(body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    let mut reader = quick_xml::Reader::from_str(text.trim_start_matches('\u{feff}'));
    loop {
        match reader.read_event() {
            Ok(quick_xml::events::Event::Eof) => return,
            Ok(_) => {}
            Err(error) => panic!("{error}: {text}"),
        }
    }
}
