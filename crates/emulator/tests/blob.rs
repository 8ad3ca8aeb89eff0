//! The blob side of a whole emulator, used as a program uses a storage account: through the
//! connection string, the account key and the official client.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails with a panic, in its helpers too"
)]

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use azure_core::http::{
    Context, Request, RequestContent, RetryOptions, StatusCode, Url,
    policies::{Policy, PolicyResult},
};
use azure_storage_blob::{
    BlobContainerClient, BlobContainerClientOptions,
    models::{
        BlobClientGetPropertiesResultHeaders, BlobClientSetMetadataOptions,
        BlobContainerClientListBlobsOptions, BlockBlobClientUploadOptions, ListBlobsIncludeItem,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use eventhubs_emulator::Emulator;
use futures_util::TryStreamExt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const CONTAINER: &str = "checkpoints";
const CHECKPOINT: &str = "ns.servicebus.windows.net/hub/$default/checkpoint/0";

/// Signs with an account key, which the official client cannot do by itself.
#[derive(Debug)]
struct SharedKey {
    account: String,
    key: Vec<u8>,
}

impl SharedKey {
    fn sign(&self, request: &Request) -> String {
        let mut headers: Vec<(&str, &str)> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().trim()))
            .collect();
        headers.sort_unstable();
        let find = |name: &str| {
            let found = headers.iter().find(|(other, _)| *other == name);
            found.map_or("", |(_, value)| *value)
        };
        let length = Some(find("content-length")).filter(|length| *length != "0");
        let mut text = format!(
            "{}\n\n\n{}\n\n{}\n\n{}\n{}\n{}\n{}\n\n",
            request.method().as_ref(),
            length.unwrap_or_default(),
            find("content-type"),
            find("if-modified-since"),
            find("if-match"),
            find("if-none-match"),
            find("if-unmodified-since"),
        );
        for (name, value) in headers.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
            text += &format!("{name}:{value}\n");
        }
        text += &format!("/{}{}", self.account, request.url().path());
        let mut query: Vec<_> = request.url().query_pairs().collect();
        query.sort_unstable();
        for (name, value) in query {
            text += &format!("\n{name}:{value}");
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).unwrap();
        mac.update(text.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

#[allow(
    elided_lifetimes_in_paths,
    reason = "async_trait needs the very text of the trait"
)]
#[async_trait::async_trait]
impl Policy for SharedKey {
    async fn send(
        &self,
        ctx: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        request.insert_header("x-ms-date", httpdate::fmt_http_date(SystemTime::now()));
        let signature = self.sign(request);
        let value = format!("SharedKey {}:{signature}", self.account);
        request.insert_header("authorization", value);
        next[0].send(ctx, request, &next[1..]).await
    }
}

/// A client made from nothing but the connection string.
fn client(connection_string: &str, key: Option<&str>) -> BlobContainerClient {
    let parts: HashMap<&str, &str> = connection_string
        .split(';')
        .filter_map(|part| part.split_once('='))
        .collect();
    let policy = SharedKey {
        account: parts["AccountName"].to_owned(),
        key: STANDARD
            .decode(key.unwrap_or_else(|| parts["AccountKey"]))
            .unwrap(),
    };
    let mut options = BlobContainerClientOptions::default();
    options.client_options.retry = RetryOptions::none();
    options
        .client_options
        .per_try_policies
        .push(Arc::new(policy));
    let url = format!("{}/{CONTAINER}", parts["BlobEndpoint"]);
    BlobContainerClient::new(Url::parse(&url).unwrap(), None, Some(options)).unwrap()
}

fn checkpoint(offset: &str) -> HashMap<String, String> {
    HashMap::from([
        ("offset".to_owned(), offset.to_owned()),
        ("sequencenumber".to_owned(), "7".to_owned()),
    ])
}

#[tokio::test]
async fn a_checkpoint_is_written_moved_and_listed_with_the_account_key() {
    let emulator = Emulator::start().await.unwrap();
    emulator.create_container(CONTAINER).unwrap();
    let container = client(&emulator.storage_connection_string(), None);
    let blob = container.blob_client(CHECKPOINT);

    let first = blob.set_metadata(&checkpoint("1"), None).await.unwrap_err();
    assert_eq!(first.http_status(), Some(StatusCode::NotFound));
    let options = BlockBlobClientUploadOptions {
        metadata: Some(checkpoint("1")),
        ..BlockBlobClientUploadOptions::default()
    };
    let content = RequestContent::from(Vec::new());
    blob.upload(content, Some(options.if_not_exists()))
        .await
        .unwrap();

    let etag = blob.get_properties(None).await.unwrap().etag().unwrap();
    let condition = || BlobClientSetMetadataOptions {
        if_match: etag.clone(),
        ..BlobClientSetMetadataOptions::default()
    };
    blob.set_metadata(&checkpoint("2"), Some(condition()))
        .await
        .unwrap();
    let deposed = blob.set_metadata(&checkpoint("0"), Some(condition())).await;
    let status = deposed.unwrap_err().http_status();
    assert_eq!(status, Some(StatusCode::PreconditionFailed));
    let stored = blob.get_properties(None).await.unwrap().metadata().unwrap();
    assert_eq!(stored, checkpoint("2"));

    let options = BlobContainerClientListBlobsOptions {
        include: Some(vec![ListBlobsIncludeItem::Metadata]),
        prefix: Some("ns.servicebus.windows.net/hub/$default/".to_owned()),
        ..BlobContainerClientListBlobsOptions::default()
    };
    let listed: Vec<_> = container
        .list_blobs(Some(options))
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let names: Vec<_> = listed.iter().map(|blob| blob.name.as_deref()).collect();
    assert_eq!(names, [Some(CHECKPOINT)]);
    emulator.stop().await;
}

#[tokio::test]
async fn a_missing_container_a_wrong_key_and_a_stopped_emulator_are_told_apart() {
    let emulator = Emulator::start().await.unwrap();
    let connection_string = emulator.storage_connection_string();
    let status = async |key| {
        let container = client(&connection_string, key);
        let properties = container.get_properties(None).await;
        properties.map(drop).unwrap_err().http_status()
    };
    assert_eq!(status(None).await, Some(StatusCode::NotFound));
    assert_eq!(status(Some("AAAA")).await, Some(StatusCode::Forbidden));
    emulator.stop().await;
    assert_eq!(status(None).await, None);
}
