//! What issues tokens of the emulator over plain HTTP: Microsoft Entra ID, and the endpoints of managed identities.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eventhubs_emulator::Emulator;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const LIFETIME: Duration = Duration::from_secs(3600);

/// A request for a token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Method and target, without the query.
    pub(crate) of: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    /// Those of the query and those of the form.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// Gives a token to everybody but those whom it knows to be wrong.
pub(crate) struct TokenIssuer {
    pub(crate) addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: AbortOnDropHandle<()>,
}

impl TokenIssuer {
    pub(crate) async fn start(emulator: Arc<Emulator>, is_wrong: fn(&Asked) -> bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                // A front passes on nothing for those who do not trust it.
                let Some(asked) = read(&mut stream).await else {
                    continue;
                };
                log.lock().unwrap().push(asked.clone());
                let answer = match is_wrong(&asked) {
                    true => refusal(),
                    false => granted(&asked, &emulator),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            addr,
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What it was asked for since this was asked last.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// `None`: the connection ends before a request is whole.
async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        if let Some(asked) = parse(&String::from_utf8_lossy(&bytes)) {
            return Some(asked);
        }
        let more = stream.read_buf(&mut bytes).await;
        if more.is_err() || more.is_ok_and(|len| len == 0) {
            return None;
        }
    }
}

fn parse(text: &str) -> Option<Asked> {
    let (head, form) = text.split_once("\r\n\r\n")?;
    let (first, headers) = head.split_once("\r\n")?;
    let headers: BTreeMap<_, _> = headers
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let len = headers
        .get("content-length")
        .map_or(0, |len| len.parse().unwrap());
    if form.len() < len {
        return None;
    }
    let target = first.strip_suffix(" HTTP/1.1")?;
    let (of, query) = target.split_once('?').unwrap_or((target, ""));
    let query = url::form_urlencoded::parse(query.as_bytes());
    let form = url::form_urlencoded::parse(form.as_bytes());
    Some(Asked {
        of: of.to_owned(),
        headers,
        parameters: query
            .chain(form)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect(),
    })
}

/// The fields of all kinds of answers.
fn granted(asked: &Asked, emulator: &Emulator) -> String {
    let resource = asked.parameters.get("resource");
    let scope = match resource {
        Some(resource) => format!("{resource}/.default"),
        None => asked.parameters["scope"].clone(),
    };
    let body = serde_json::json!({
        "token_type": "Bearer",
        "access_token": emulator.issue_token(&scope, LIFETIME),
        "expires_in": LIFETIME.as_secs(),
        "expires_on": expires_on().to_string(),
        "resource": resource,
    });
    response("200 OK", &body.to_string())
}

fn expires_on() -> u64 {
    let end = SystemTime::now() + LIFETIME;
    end.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn refusal() -> String {
    let body =
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret."}"#;
    response("401 Unauthorized", body)
}

fn response(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
