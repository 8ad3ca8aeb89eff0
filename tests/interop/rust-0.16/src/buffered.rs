//! The buffered producer, new in 0.16.

use std::sync::{Arc, Mutex};

use azure_messaging_eventhubs::{BufferedProducerClient, EnqueueEventOptions};
use serde_json::json;

use crate::features::events;
use crate::namespace::{AnyToken, BoxError, Namespace, print_line, required};

pub async fn send() -> Result<(), BoxError> {
    let namespace = Namespace::from_env();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&failures);
    let producer = BufferedProducerClient::builder()
        .with_custom_endpoint(namespace.custom_endpoint())
        .with_on_send_failed(move |failed| {
            noted.lock().expect("no panic").push(format!("{failed:?}"));
            std::future::ready(())
        })
        .open(
            &namespace.host,
            &required("SEND_EVENTHUB_NAME"),
            AnyToken::new(),
        )
        .await?;
    for event in events("buffered", 50) {
        producer.enqueue_event(event, None).await?;
    }
    for event in events("buffered key", 5) {
        let to_key = EnqueueEventOptions {
            partition_key: Some("7".to_owned()),
            ..EnqueueEventOptions::default()
        };
        producer.enqueue_event(event, Some(to_key)).await?;
    }
    producer.flush().await?;
    producer.close().await?;
    let failures = failures.lock().expect("no panic");
    if !failures.is_empty() {
        return Err(format!("not sent: {failures:?}").into());
    }
    print_line(&json!({ "sent": "buffered" }));
    Ok(())
}
