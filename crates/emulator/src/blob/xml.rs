//! The XML bodies: errors and listings.

use std::{io, time::SystemTime};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::{
    Writer,
    events::{BytesEnd, BytesStart, BytesText, Event},
};

use super::{
    clock::{http_date, iso_date},
    errors::StorageError,
    list::{BlobPage, ListItem, ListPage, ListQuery},
    metadata::Metadata,
    state::{Blob, Container},
};

/// PROTOCOL: the service starts its XML with a byte order mark; a client must skip it.
const START: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>";

struct Xml(Writer<Vec<u8>>);

impl Xml {
    fn new() -> Self {
        Self(Writer::new(START.as_bytes().to_vec()))
    }

    fn element(&mut self, name: &str, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return self.0.write_event(Event::Empty(BytesStart::new(name)));
        }
        // Refusals repeat what they refuse, which may be something XML cannot hold.
        let text = text.replace(is_not_xml, "\u{fffd}");
        self.0.write_event(Event::Start(BytesStart::new(name)))?;
        self.0.write_event(Event::Text(BytesText::new(&text)))?;
        self.close(name)
    }

    fn open(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::Start(BytesStart::new(name)))
    }

    fn close(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }

    /// Writes a blob name, percent-encoded where XML cannot carry it.
    ///
    /// PROTOCOL: since 2021-02-12 such names come as `<Name Encoded="true">`.
    fn name(&mut self, name: &str) -> io::Result<()> {
        if !name.contains(|c| c < ' ' || is_not_xml(c)) {
            return self.element("Name", name);
        }
        let mut start = BytesStart::new("Name");
        start.push_attribute(("Encoded", "true"));
        let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        self.0.write_event(Event::Start(start))?;
        self.0.write_event(Event::Text(BytesText::new(&encoded)))?;
        self.close("Name")
    }

    fn metadata(&mut self, metadata: &Metadata) -> io::Result<()> {
        if metadata.is_empty() {
            return self.element("Metadata", "");
        }
        self.open("Metadata")?;
        for (name, value) in metadata.iter() {
            self.element(name, value)?;
        }
        self.close("Metadata")
    }

    fn list_head(&mut self, endpoint: &str, container: &str, query: &ListQuery) -> io::Result<()> {
        let mut start = BytesStart::new("EnumerationResults");
        start.push_attribute(("ServiceEndpoint", endpoint));
        if !container.is_empty() {
            start.push_attribute(("ContainerName", container));
        }
        self.0.write_event(Event::Start(start))?;
        let max_results = query.max_results.map(|max| max.to_string());
        for (name, value) in [
            ("Prefix", query.prefix.as_str()),
            ("Marker", query.marker.as_str()),
            ("MaxResults", max_results.as_deref().unwrap_or("")),
            ("Delimiter", query.delimiter.as_str()),
        ] {
            if !value.is_empty() {
                self.element(name, value)?;
            }
        }
        Ok(())
    }

    fn list_tail(mut self, next_marker: Option<&str>) -> io::Result<Vec<u8>> {
        self.element("NextMarker", next_marker.unwrap_or(""))?;
        self.close("EnumerationResults")?;
        Ok(self.0.into_inner())
    }

    fn blob(&mut self, name: &str, blob: &Blob, with_metadata: bool) -> io::Result<()> {
        let headers = &blob.headers;
        let length = blob.content.len().to_string();
        self.open("Blob")?;
        self.name(name)?;
        self.open("Properties")?;
        for (name, value) in [
            ("Creation-Time", Some(http_date(blob.created).as_str())),
            (
                "Last-Modified",
                Some(http_date(blob.last_modified).as_str()),
            ),
            // PROTOCOL: without quotes here, with quotes in headers.
            ("Etag", Some(blob.etag.to_string().as_str())),
            ("Content-Length", Some(&length)),
            ("Content-Type", headers.content_type.as_deref()),
            ("Content-Encoding", headers.encoding.as_deref()),
            ("Content-Language", headers.language.as_deref()),
            ("Content-CRC64", None),
            ("Content-MD5", headers.md5.as_deref()),
            ("Cache-Control", headers.cache_control.as_deref()),
            ("Content-Disposition", headers.disposition.as_deref()),
            ("BlobType", Some("BlockBlob")),
            ("AccessTier", Some("Hot")),
            ("AccessTierInferred", Some("true")),
            ("LeaseStatus", Some("unlocked")),
            ("LeaseState", Some("available")),
            ("ServerEncrypted", Some("true")),
        ] {
            self.element(name, value.unwrap_or(""))?;
        }
        self.close("Properties")?;
        if with_metadata {
            self.metadata(&blob.metadata)?;
        }
        self.element("OrMetadata", "")?;
        self.close("Blob")
    }
}

fn is_not_xml(c: char) -> bool {
    (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// The body of a refused request.
pub(crate) fn error(
    error: &StorageError,
    request_id: &str,
    now: SystemTime,
) -> io::Result<Vec<u8>> {
    let message = format!(
        "{}\nRequestId:{request_id}\nTime:{}",
        error.code.message(),
        iso_date(now)
    );
    let mut xml = Xml::new();
    xml.open("Error")?;
    xml.element("Code", error.code.as_str())?;
    xml.element("Message", &message)?;
    for (name, value) in &error.details {
        xml.element(name, value)?;
    }
    xml.close("Error")?;
    Ok(xml.0.into_inner())
}

/// The body of List Blobs.
pub(crate) fn blobs(
    (endpoint, container): (&str, &str),
    query: &ListQuery,
    page: &BlobPage<'_>,
    with_metadata: bool,
) -> io::Result<Vec<u8>> {
    let mut xml = Xml::new();
    xml.list_head(endpoint, container, query)?;
    xml.open("Blobs")?;
    for item in &page.items {
        match item {
            ListItem::Entry(name, blob) => xml.blob(name, blob, with_metadata)?,
            ListItem::Prefix(name) => {
                xml.open("BlobPrefix")?;
                xml.name(name)?;
                xml.close("BlobPrefix")?;
            }
        }
    }
    xml.close("Blobs")?;
    xml.list_tail(page.next_marker.as_deref())
}

/// The body of List Containers.
pub(crate) fn containers(
    endpoint: &str,
    query: &ListQuery,
    page: &ListPage<'_, Container>,
    with_metadata: bool,
) -> io::Result<Vec<u8>> {
    let mut xml = Xml::new();
    xml.list_head(endpoint, "", query)?;
    xml.open("Containers")?;
    for item in &page.items {
        let ListItem::Entry(name, container) = item else {
            continue;
        };
        xml.open("Container")?;
        xml.element("Name", name)?;
        xml.open("Properties")?;
        xml.element("Last-Modified", &http_date(container.last_modified))?;
        xml.element("Etag", &container.etag.quoted())?;
        for (name, value) in CONTAINER_PROPERTIES {
            xml.element(name, value)?;
        }
        xml.close("Properties")?;
        if with_metadata {
            xml.metadata(&container.metadata)?;
        }
        xml.close("Container")?;
    }
    xml.close("Containers")?;
    xml.list_tail(page.next_marker.as_deref())
}

const CONTAINER_PROPERTIES: [(&str, &str); 6] = [
    ("LeaseStatus", "unlocked"),
    ("LeaseState", "available"),
    ("DefaultEncryptionScope", "$account-encryption-key"),
    ("DenyEncryptionScopeOverride", "false"),
    ("HasImmutabilityPolicy", "false"),
    ("HasLegalHold", "false"),
];
