//! The control port: faults and state over HTTP, for tests that do not run in this process.
//!
//! | request | effect |
//! |---|---|
//! | `POST /faults` | a fault of the Event Hubs side, [`requests::Order`] |
//! | `POST /faults/blob` | a fault of the blob side, [`blob_requests::BlobOrder`] |
//! | `GET /faults` | what waits or lasts, and how often each has acted |
//! | `DELETE /faults` | takes everything back |
//! | `GET /status` | event hubs, partitions, receivers, connections |

mod blob_requests;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod requests;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::blob_requests::BlobOrder;
use self::requests::Order;
pub(crate) use self::server::ControlServer;
use crate::amqp::Service;
use crate::blob::BlobAccount;
use crate::emulator::{BlobFaults, Faults, status};

/// What requests act on.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    service: Arc<Service>,
    faults: Faults,
    blob_faults: BlobFaults,
    account: BlobAccount,
}

/// A status and what to say; errors have the same form.
type Answer = (StatusCode, serde_json::Value);

impl Control {
    pub(crate) fn new(
        service: Arc<Service>,
        blob_faults: BlobFaults,
        account: BlobAccount,
    ) -> Self {
        Self {
            faults: Faults::new(Arc::clone(&service)),
            service,
            blob_faults,
            account,
        }
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: &Bytes) -> Answer {
        // A web page must not reach a program on the machine of whoever looks at it.
        if headers.contains_key(header::ORIGIN) {
            return refusal(StatusCode::FORBIDDEN, "requests of web pages are refused");
        }
        match (path, method) {
            ("/faults", &Method::POST) => self.order(headers, body),
            ("/faults/blob", &Method::POST) => self.blob_order(headers, body),
            ("/faults", &Method::GET) => (StatusCode::OK, self.list()),
            ("/faults", &Method::DELETE) => {
                self.faults.clear();
                self.blob_faults.clear();
                (StatusCode::OK, json!({}))
            }
            ("/status", &Method::GET) => {
                match serde_json::to_value(status(&self.service, &self.account)) {
                    Ok(status) => (StatusCode::OK, status),
                    Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                }
            }
            ("/faults" | "/faults/blob" | "/status", _) => {
                refusal(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
            }
            _ => refusal(
                StatusCode::NOT_FOUND,
                "there are /faults, /faults/blob and /status",
            ),
        }
    }

    fn order(&self, headers: &HeaderMap, body: &Bytes) -> Answer {
        match parse::<Order>(headers, body).and_then(|order| order.carry_out(&self.faults)) {
            Ok(()) => (StatusCode::OK, json!({})),
            Err(text) => refusal(StatusCode::BAD_REQUEST, &text),
        }
    }

    fn blob_order(&self, headers: &HeaderMap, body: &Bytes) -> Answer {
        let order = parse::<BlobOrder>(headers, body);
        match order.and_then(|order| order.carry_out(&self.blob_faults, &self.account)) {
            Ok(()) => (StatusCode::OK, json!({})),
            Err(text) => refusal(StatusCode::BAD_REQUEST, &text),
        }
    }

    fn list(&self) -> serde_json::Value {
        let pace = self.faults.pace();
        json!({
            "event_hubs": {
                "active": self.faults.active(),
                "counts": self.faults.counts(),
                "refusing": pace.is_down,
                "frozen": pace.is_frozen,
                "delay_ms": u64::try_from(pace.delay.as_millis()).unwrap_or(u64::MAX),
            },
            "blob": side(self.blob_faults.active(), self.blob_faults.counts()),
        })
    }
}

fn side(active: impl Serialize, counts: impl Serialize) -> serde_json::Value {
    json!({ "active": active, "counts": counts })
}

fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, String> {
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.split(';').next() == Some("application/json"));
    if !is_json {
        return Err("the content type has to be application/json".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn refusal(status: StatusCode, text: &str) -> Answer {
    (status, json!({ "error": text }))
}

fn response((status, value): Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
