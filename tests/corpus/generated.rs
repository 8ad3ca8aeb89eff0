//! Inputs too large to be files, most of them known to have killed a decoder of AMQP.

type Input = (&'static str, String, Vec<u8>);

/// A way to put a value into another one.
type Wrap = fn(&[u8]) -> Vec<u8>;

const KINDS: [(&str, Wrap); 4] = [
    ("list", list32),
    ("map", map32),
    ("array", array32),
    ("described", described),
];

pub(crate) fn inputs() -> Vec<Input> {
    let mut inputs = Vec::new();
    for (kind, wrap) in KINDS {
        for depth in [63, 300, 5000] {
            let nest = (0..depth).fold(vec![0x40], |inner, _| wrap(&inner));
            for (place, message) in messages(&nest) {
                let name = format!("{kind}-{depth}-deep-in-{place}");
                for target in [
                    "message_event",
                    "emulator_message",
                    "emulator_cbs",
                    "emulator_management",
                ] {
                    inputs.push((target, name.clone(), message.clone()));
                }
                // Larger than a frame, it comes in several.
                let transfers = transfers(&message);
                inputs.push(("guard_stream", name.clone(), transfers.clone()));
                let behind_open = [&[0xf1][..], &transfers].concat();
                inputs.push(("emulator_connection", name, behind_open));
            }
            let performative = frame(&[&[0x00, 0x53, 0x10][..], &list32(&nest)].concat());
            let name = format!("{kind}-{depth}-deep-in-open");
            inputs.push(("guard_stream", name.clone(), performative.clone()));
            inputs.push(("emulator_frame", name.clone(), performative.clone()));
            let before_open = [&[0xf0][..], b"AMQP\x00\x01\x00\x00", &performative].concat();
            inputs.push(("emulator_connection", name.clone(), before_open));
            inputs.push(("emulator_selector", name, nest));
        }
    }
    let parentheses = format!("amqp.annotation.x-opt-offset > {}", "(".repeat(100_000));
    inputs.push((
        "emulator_selector",
        "parentheses".to_owned(),
        parentheses.clone().into_bytes(),
    ));
    inputs.push((
        "selector",
        "parentheses".to_owned(),
        parentheses.into_bytes(),
    ));
    for target in [
        "connection_string",
        "storage_connection_string",
        "sas",
        "emulator_sas",
    ] {
        let megabyte = format!("Endpoint=sb://{}", "a;b=".repeat(250_000));
        inputs.push((target, "a-megabyte".to_owned(), megabyte.into_bytes()));
    }
    inputs.push(("blob_listing", "elements-50000-deep".to_owned(), deep_xml()));
    inputs.push(("blob_listing", "20000-blobs".to_owned(), long_listing()));
    let many = "ns/hub/g/ownership/1\townerid=a\n".repeat(20_000);
    inputs.push((
        "blob_records",
        "the-same-20000-times".to_owned(),
        many.into_bytes(),
    ));
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000));
    inputs.push((
        "emulator_blob_http",
        "a-long-line".to_owned(),
        line.into_bytes(),
    ));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(20_000));
    for target in ["emulator_blob_http", "emulator_websocket"] {
        inputs.push((
            target,
            "20000-headers".to_owned(),
            headers.clone().into_bytes(),
        ));
    }
    let names: String = (0..5000)
        .map(|n| format!("x-ms-meta-A{n}: b\r\n"))
        .collect();
    let spelled = format!("PUT /devstoreaccount1/con/b HTTP/1.1\r\n{names}");
    inputs.push((
        "emulator_blob_http",
        "5000-spellings".to_owned(),
        spelled.into_bytes(),
    ));
    inputs.push((
        "emulator_control",
        "100000-brackets".to_owned(),
        vec![b'['; 100_000],
    ));
    inputs
}

/// Messages that hold a value in each of the places that a decoder looks at.
fn messages(value: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let section = |code: u8, value: &[u8]| [&[0x00, 0x53, code], value].concat();
    let entry = |key: &[u8]| map(&[key, value].concat(), 2);
    [
        ("body", section(0x77, value)),
        ("sequence", section(0x76, &list32(value))),
        ("annotations", section(0x72, &entry(b"\xa3\x01k"))),
        ("properties", section(0x74, &entry(b"\xa1\x01k"))),
    ]
}

/// A message on handle 0, in frames of at most 4 KiB.
fn transfers(message: &[u8]) -> Vec<u8> {
    let chunks: Vec<&[u8]> = message.chunks(4000).collect();
    let last = chunks.len() - 1;
    let frames = chunks.iter().enumerate().map(|(index, chunk)| {
        let more = if index < last { 0x41 } else { 0x42 };
        // handle, delivery-id, delivery-tag, message-format, settled, more
        let fields = [0x43, 0x43, 0xa0, 0x01, 0x00, 0x43, 0x41, more];
        frame(&[&[0x00, 0x53, 0x14, 0xc0, 9, 6][..], &fields, chunk].concat())
    });
    frames.collect::<Vec<_>>().concat()
}

fn frame(body: &[u8]) -> Vec<u8> {
    let size = (body.len() as u32 + 8).to_be_bytes();
    [&size[..], &[2, 0, 0, 0], body].concat()
}

fn list32(inner: &[u8]) -> Vec<u8> {
    let size = (inner.len() as u32 + 4).to_be_bytes();
    [&[0xd0][..], &size, &[0, 0, 0, 1], inner].concat()
}

fn map32(inner: &[u8]) -> Vec<u8> {
    map(&[&[0x41], inner].concat(), 2)
}

fn map(entries: &[u8], count: u32) -> Vec<u8> {
    let size = (entries.len() as u32 + 4).to_be_bytes();
    [&[0xd1][..], &size, &count.to_be_bytes(), entries].concat()
}

fn array32(inner: &[u8]) -> Vec<u8> {
    let size = (inner.len() as u32 + 4).to_be_bytes();
    [&[0xf0][..], &size, &[0, 0, 0, 1], inner].concat()
}

fn described(inner: &[u8]) -> Vec<u8> {
    [&[0x00, 0x53, 0x77][..], inner].concat()
}

fn deep_xml() -> Vec<u8> {
    let mut xml = b"<EnumerationResults>".to_vec();
    xml.extend("<Blobs><Blob>".repeat(50_000).into_bytes());
    xml
}

fn long_listing() -> Vec<u8> {
    let blobs: String = (0..20_000)
        .map(|n| {
            format!(
                "<Blob><Name>ns/hub/$default/ownership/{n}</Name><Properties><Etag>{n}</Etag></Properties>\
                 <Metadata><ownerid>a</ownerid></Metadata></Blob>"
            )
        })
        .collect();
    format!("<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>")
        .into_bytes()
}
