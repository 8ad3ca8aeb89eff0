//! Speaks to a blob endpoint without the library: makes containers, and writes records as foreign or broken
//! writers would.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventhubs_processor::credential::StorageConnectionString;
use hmac::{Hmac, KeyInit as _, Mac as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

/// One answer: its status and its headers in lower case.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A signed connection to a plain http endpoint.
#[derive(Clone, Debug)]
pub(super) struct RawBlob {
    endpoint: Url,
    account: String,
    key: Vec<u8>,
}

impl RawBlob {
    pub(super) fn new(connection_string: &str) -> Self {
        let parsed = StorageConnectionString::parse(connection_string).unwrap();
        let field = |name: &str| {
            let mut fields = connection_string.split(';');
            let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            value.expect("these tests need an account key")
        };
        Self {
            endpoint: parsed.blob_endpoint().parse().unwrap(),
            account: field("AccountName").to_owned(),
            key: BASE64.decode(field("AccountKey")).unwrap(),
        }
    }

    pub(super) async fn create_container(&self, container: &str) {
        let answer = self
            .request("PUT", container, &[("restype", "container")], &[])
            .await;
        assert!(matches!(answer.status, 201 | 409), "{answer:?}");
    }

    /// Puts an empty blob with any metadata.
    pub(super) async fn put(&self, container: &str, name: &str, metadata: &[(&str, &str)]) {
        self.put_content(container, name, metadata, "").await;
    }

    /// Puts a blob with any metadata and content.
    pub(super) async fn put_content(
        &self,
        container: &str,
        name: &str,
        metadata: &[(&str, &str)],
        content: &str,
    ) {
        let mut headers = vec![("x-ms-blob-type".to_owned(), "BlockBlob".to_owned())];
        for (key, value) in metadata {
            headers.push((format!("x-ms-meta-{key}"), (*value).to_owned()));
        }
        let answer = self
            .send(
                "PUT",
                &format!("{container}/{name}"),
                &[],
                &headers,
                content,
            )
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    pub(super) async fn head(&self, container: &str, name: &str) -> Answer {
        self.request("HEAD", &format!("{container}/{name}"), &[], &[])
            .await
    }

    /// A blob and its content.
    pub(super) async fn get(&self, container: &str, name: &str) -> (Answer, Vec<u8>) {
        let path = format!("{container}/{name}");
        self.exchange("GET", &path, &[], &[], "").await
    }

    pub(super) async fn delete(&self, container: &str, name: &str) {
        let answer = self
            .request("DELETE", &format!("{container}/{name}"), &[], &[])
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    /// A signature that allows everything the store does in one container.
    ///
    /// PROTOCOL: "Create a service SAS", the form since version 2020-12-06.
    pub(super) fn container_signature(&self, container: &str) -> String {
        self.container_signature_until(container, "2099-01-01T00:00:00Z")
    }

    /// The same with an end.
    pub(super) fn container_signature_until(&self, container: &str, expiry: &str) -> String {
        let to_sign = format!(
            "rcwl\n\n{expiry}\n/blob/{}/{container}\n\n\n\n2021-12-02\nc\n\n\n\n\n\n\n",
            self.account
        );
        let signature: String =
            url::form_urlencoded::byte_serialize(self.sign(&to_sign).as_bytes()).collect();
        format!("sv=2021-12-02&sr=c&sp=rcwl&se={expiry}&sig={signature}")
    }

    fn sign(&self, to_sign: &str) -> String {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.key).unwrap();
        mac.update(to_sign.as_bytes());
        BASE64.encode(mac.finalize().into_bytes())
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
    ) -> Answer {
        self.send(method, path, query, headers, "").await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
        content: &str,
    ) -> Answer {
        self.exchange(method, path, query, headers, content).await.0
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
        content: &str,
    ) -> (Answer, Vec<u8>) {
        let base = self.endpoint.path().trim_end_matches('/');
        let path = format!("{base}/{path}");
        let mut ms_headers = headers.to_vec();
        ms_headers.push((
            "x-ms-date".to_owned(),
            httpdate::fmt_http_date(SystemTime::now()),
        ));
        ms_headers.push(("x-ms-version".to_owned(), "2021-12-02".to_owned()));
        ms_headers.sort_by_key(|(name, _)| name.to_lowercase());
        let length = content.len();
        let signed_length = if length == 0 {
            String::new()
        } else {
            length.to_string()
        };
        let mut to_sign = format!("{method}\n\n\n{signed_length}\n\n\n\n\n\n\n\n\n");
        for (name, value) in &ms_headers {
            to_sign += &format!("{}:{}\n", name.to_lowercase(), value.trim());
        }
        to_sign += &format!("/{}{path}", self.account);
        for (name, value) in query {
            to_sign += &format!("\n{name}:{value}");
        }
        let signature = self.sign(&to_sign);

        let query: Vec<String> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let target = if query.is_empty() {
            path
        } else {
            format!("{path}?{}", query.join("&"))
        };
        let address = self.endpoint.socket_addrs(|| None).unwrap()[0];
        let mut text = format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Authorization: SharedKey {}:{signature}\r\n",
            self.account
        );
        for (name, value) in &ms_headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        text += content;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let content = bytes.split_off(end.unwrap() + 4);
        let head = String::from_utf8_lossy(&bytes);
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let answer = Answer {
            status: status.parse().unwrap(),
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
                .collect(),
        };
        (answer, content)
    }
}
