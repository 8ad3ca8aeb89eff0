//! The official Rust client, unmodified, with a signature made by the JavaScript one.
//!
//! INTEROP: azure_storage_blob 1.1 knows no account key, so a shared access signature stands in;
//! it encodes `/` in blob names, and parses every header and element it is given.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use azure_core::http::{RequestContent, RetryOptions, StatusCode, Url};
use azure_storage_blob::{
    BlobContainerClient, BlobContainerClientOptions,
    models::{
        BlobClientGetPropertiesResultHeaders, BlobClientSetMetadataOptions,
        BlobContainerClientListBlobsOptions, BlockBlobClientUploadOptions, ListBlobsIncludeItem,
    },
};
use futures_util::TryStreamExt;

use super::{
    super::{BlobOptions, BlobServer, WallClock},
    client::start,
};

/// Reading, writing, deleting, listing and creating anything in the account until 2030.
const SAS: &str = "sv=2021-12-02&ss=b&srt=sco&st=2020-01-01T00%3A00%3A00Z\
                   &se=2030-01-02T03%3A04%3A05Z&sp=rwdlc\
                   &sig=fZbzznTJagZs55Qtrz%2BRK5xqK9CXUs09%2BlkOpiqtnpo%3D";

async fn container() -> (BlobServer, BlobContainerClient) {
    // The signature expires one day; the endpoint stays in 2026.
    let now = UNIX_EPOCH + Duration::from_secs(1_795_477_570);
    let options = BlobOptions {
        clock: WallClock::new(move || now),
        ..BlobOptions::default()
    };
    let (server, _) = start(options).await;
    let url = format!("{}/con?{SAS}", server.endpoint().unwrap());
    let mut options = BlobContainerClientOptions::default();
    options.client_options.retry = RetryOptions::none();
    let client = BlobContainerClient::new(Url::parse(&url).unwrap(), None, Some(options));
    (server, client.unwrap())
}

fn owner(id: &str) -> HashMap<String, String> {
    HashMap::from([("ownerid".to_owned(), id.to_owned())])
}

#[tokio::test]
async fn the_official_client_claims_renews_lists_and_loses() {
    let (_server, container) = container().await;
    let blob = container.blob_client("ns/hub/$default/ownership/0");
    let create = || {
        let options = BlockBlobClientUploadOptions {
            metadata: Some(owner("me")),
            ..BlockBlobClientUploadOptions::default()
        };
        blob.upload(
            RequestContent::from(Vec::new()),
            Some(options.if_not_exists()),
        )
    };
    create().await.unwrap();
    let conflict = create().await.unwrap_err();
    assert_eq!(conflict.http_status(), Some(StatusCode::Conflict));

    let properties = blob.get_properties(None).await.unwrap();
    let etag = properties.etag().unwrap().unwrap();
    assert!(properties.last_modified().unwrap().is_some());
    assert_eq!(properties.metadata().unwrap(), owner("me"));

    let renew = |etag| {
        let options = BlobClientSetMetadataOptions {
            if_match: Some(etag),
            ..BlobClientSetMetadataOptions::default()
        };
        let metadata = owner("");
        let blob = &blob;
        async move { blob.set_metadata(&metadata, Some(options)).await }
    };
    renew(etag.clone()).await.unwrap();
    let lost = renew(etag).await.unwrap_err();
    assert_eq!(lost.http_status(), Some(StatusCode::PreconditionFailed));

    let options = BlobContainerClientListBlobsOptions {
        include: Some(vec![ListBlobsIncludeItem::Metadata]),
        prefix: Some("ns/hub/$default/ownership/".to_owned()),
        ..BlobContainerClientListBlobsOptions::default()
    };
    let pages = container.list_blobs(Some(options)).unwrap();
    let blobs: Vec<_> = pages.try_collect().await.unwrap();
    assert_eq!(blobs.len(), 1);
    let names: Vec<_> = blobs.iter().map(|blob| blob.name.as_deref()).collect();
    assert_eq!(names, [Some("ns/hub/$default/ownership/0")]);

    blob.delete(None).await.unwrap();
    let gone = blob.get_properties(None).await.unwrap_err();
    assert_eq!(gone.http_status(), Some(StatusCode::NotFound));
}
