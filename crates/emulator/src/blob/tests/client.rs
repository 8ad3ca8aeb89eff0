//! A signing HTTP client, written from the REST reference and not from `auth`.

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode, header::HeaderMap};
use sha2::Sha256;

use super::super::{BlobOptions, BlobServer, WELL_KNOWN_ACCOUNT, WELL_KNOWN_KEY};

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default()
    }

    /// Status and error code.
    pub(super) fn code(&self) -> (u16, &str) {
        (self.status.as_u16(), self.header("x-ms-error-code"))
    }
}

/// A client of one endpoint that signs with the well-known key.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: String,
    pub(super) date: Option<SystemTime>,
    pub(super) key: String,
}

impl Client {
    /// A client of `http://host:port/account`.
    pub(super) fn new(endpoint: impl Into<String>) -> Self {
        Self {
            http: reqwest::Client::new(),
            endpoint: endpoint.into(),
            date: None,
            key: WELL_KNOWN_KEY.to_owned(),
        }
    }

    /// Sends a signed request; `path` follows the account and may have a query.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    /// As [`send`](Self::send), when the connection may end without an answer.
    pub(super) async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Result<Answer, reqwest::Error> {
        let date = httpdate::fmt_http_date(self.date.unwrap_or_else(SystemTime::now));
        let mut all = vec![("x-ms-date", date.as_str()), ("x-ms-version", "2021-12-02")];
        all.extend_from_slice(headers);
        let signature = self.sign(method, path, &all, body.len());
        let authorization = format!("SharedKey {WELL_KNOWN_ACCOUNT}:{signature}");
        all.push(("authorization", &authorization));
        self.send_raw(method, path, &all, body).await
    }

    /// Sends a request as it is given.
    pub(super) async fn send_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> Result<Answer, reqwest::Error> {
        let method: Method = method.parse().unwrap();
        let url = format!("{}{path}", self.endpoint);
        let is_write = method == Method::PUT;
        let mut request = self.http.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if is_write {
            request = request.header("content-length", body.len()).body(body);
        }
        let response = request.send().await?;
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.text().await?,
        })
    }

    fn sign(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
        let find = |name: &str| {
            let found = headers
                .iter()
                .find(|(other, _)| other.eq_ignore_ascii_case(name));
            found.map_or(String::new(), |(_, value)| (*value).to_owned())
        };
        let length = if length == 0 {
            String::new()
        } else {
            length.to_string()
        };
        let mut text = format!(
            "{method}\n\n\n{length}\n\n{}\n\n{}\n{}\n{}\n{}\n{}\n",
            find("content-type"),
            find("if-modified-since"),
            find("if-match"),
            find("if-none-match"),
            find("if-unmodified-since"),
            find("range"),
        );
        let mut own: Vec<(String, &str)> = headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
            .filter(|(name, _)| name.starts_with("x-ms-"))
            .collect();
        own.sort();
        for (name, value) in own {
            text += &format!("{name}:{value}\n");
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        text += &format!("/{WELL_KNOWN_ACCOUNT}/{WELL_KNOWN_ACCOUNT}{path}");
        let mut pairs: Vec<(&str, &str)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        pairs.sort_unstable();
        for (name, value) in pairs {
            let value = percent_encoding::percent_decode_str(value)
                .decode_utf8()
                .unwrap();
            text += &format!("\n{name}:{value}");
        }
        let key = STANDARD.decode(&self.key).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(text.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// Starts an endpoint with the container `con`.
pub(super) async fn start(options: BlobOptions) -> (BlobServer, Client) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = BlobServer::start(listener, options);
    server.account().create_container("con").unwrap();
    let client = Client::new(server.endpoint().unwrap());
    (server, client)
}
