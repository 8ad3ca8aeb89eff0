//! The fuzz target of the control port.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::Control;
use crate::amqp::{Keys, Service, fuzz};
use crate::blob::{BlobAccount, BlobFaults as Faults};
use crate::emulator::BlobFaults;

/// An order to either side is carried out or refused, and can be taken back.
pub(crate) fn orders(data: &[u8]) {
    let service = Arc::new(Service::new(fuzz::broker(), Keys::default()));
    let control = Control::new(
        service,
        BlobFaults::new(Faults::default()),
        BlobAccount::detached(),
    );
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let body = Bytes::copy_from_slice(data);
    for path in ["/faults", "/faults/blob"] {
        let (status, _) = control.answer(&Method::POST, path, &headers, &body);
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST));
    }
    control.answer(&Method::DELETE, "/faults", &headers, &Bytes::new());
    let (_, list) = control.answer(&Method::GET, "/faults", &headers, &Bytes::new());
    for side in ["event_hubs", "blob"] {
        let active = list.get(side).and_then(|side| side.get("active"));
        assert!(
            active.is_some_and(|active| active == &serde_json::json!([])),
            "{list}"
        );
    }
}
