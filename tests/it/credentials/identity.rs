//! Microsoft Entra ID by way of `azure_identity`: the client-secret flow, against an issuer in this process.

use azure_core::http::{
    AsyncRawResponse, ClientOptions, HttpClient, Request, Transport as AzureTransport,
    new_http_client,
};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use eventhubs_processor::checkpoint::{BlobCheckpointStore, BlobCheckpointStoreOptions};
use eventhubs_processor::credential::azure_identity::EntraCredential;
use eventhubs_processor::credential::{IssuerRefusal, StorageConnectionString, StorageCredential};
use eventhubs_processor::{CheckpointStore as _, GroupScope};

use super::*;
use crate::support::token_issuer::{Asked, TokenIssuer};

const TENANT: &str = "contoso";
const APPLICATION: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT_SECRET: &str = "the-canary-secret";

/// Microsoft Entra ID, which knows one secret.
struct TokenEndpoint(TokenIssuer);

impl TokenEndpoint {
    async fn start(emulator: &Arc<Emulator>) -> Self {
        let is_wrong = |asked: &Asked| {
            assert_eq!(asked.of, format!("POST /{TENANT}/oauth2/v2.0/token"));
            let form = "application/x-www-form-urlencoded";
            assert_eq!(asked.headers["content-type"], form);
            assert_eq!(asked.parameters["grant_type"], "client_credentials");
            assert_eq!(asked.parameters["client_id"], APPLICATION);
            asked.parameters["client_secret"] != CLIENT_SECRET
        };
        Self(TokenIssuer::start(Arc::clone(emulator), is_wrong).await)
    }

    /// The credential as an application would make it, its requests led to this endpoint.
    fn credential(&self, secret: &'static str) -> EntraCredential {
        let options = ClientSecretCredentialOptions {
            client_options: ClientOptions {
                transport: Some(AzureTransport::new(Arc::new(Detour {
                    to: format!("http://{}", self.0.addr).parse().unwrap(),
                    client: new_http_client(None),
                }))),
                ..ClientOptions::default()
            },
        };
        let credential = ClientSecretCredential::new(
            TENANT,
            APPLICATION.to_owned(),
            secret.into(),
            Some(options),
        );
        EntraCredential::from_azure(credential.unwrap())
    }
}

/// `azure_identity` wants an authority with https; this one takes its requests elsewhere.
#[derive(Debug)]
struct Detour {
    to: url::Url,
    client: Arc<dyn HttpClient>,
}

#[async_trait]
impl HttpClient for Detour {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        assert_eq!(request.url().host_str(), Some("login.microsoftonline.com"));
        let mut request = request.clone();
        let path = request.url().path().to_owned();
        *request.url_mut() = self.to.clone();
        request.url_mut().set_path(&path);
        self.client.execute_request(&request).await
    }
}

#[tokio::test]
async fn one_service_principal_opens_event_hubs_and_blobs() {
    let emulator = Arc::new(emulator().await);
    let endpoint = TokenEndpoint::start(&emulator).await;
    let entra = Arc::new(endpoint.credential(CLIENT_SECRET));
    let client = client(
        &emulator,
        EventHubsCredential::token(Arc::clone(&entra) as _),
    );
    let mut receiver = open(&client, "0").await.unwrap();
    send(&emulator, "0");
    assert_eq!(receive(&mut receiver).await.len(), 1);

    let storage = StorageConnectionString::parse(&emulator.storage_connection_string()).unwrap();
    let store = BlobCheckpointStore::new(
        storage.blob_endpoint(),
        "checkpoints",
        StorageCredential::token(entra),
        BlobCheckpointStoreOptions::default(),
    )
    .unwrap();
    let scope = GroupScope::new("ns", "hub", "g");
    store.list_ownership(&scope).await.unwrap();
    // One for each service: it keeps what it has.
    assert_eq!(endpoint.0.take().len(), 2);
    client.close().await;
}

#[tokio::test]
async fn a_wrong_secret_is_a_refusal_and_told_with_the_issuers_words() {
    let emulator = Arc::new(emulator().await);
    let endpoint = TokenEndpoint::start(&emulator).await;
    let entra = endpoint.credential("another-canary-secret");
    let error = entra.token("https://eventhubs.azure.net//.default").await;
    assert!(error.unwrap_err().is::<IssuerRefusal>());
    let client = client(&emulator, EventHubsCredential::token(Arc::new(entra)));
    let error = client.event_hub_properties().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
    let mut told = format!("{error:?}");
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = next {
        told += &error.to_string();
        next = error.source();
    }
    assert!(told.contains("AADSTS7000215"), "{told}");
    assert!(!told.contains("canary"), "{told}");
    assert_eq!(
        emulator.amqp_requests().tokens_refused,
        0,
        "nothing was sent"
    );
    client.close().await;
}

#[tokio::test]
async fn an_issuer_that_is_not_reached_is_trouble_that_passes() {
    let emulator = Arc::new(emulator().await);
    let endpoint = TokenEndpoint::start(&emulator).await;
    let entra = endpoint.credential(CLIENT_SECRET);
    drop(endpoint);
    let client = client(&emulator, EventHubsCredential::token(Arc::new(entra)));
    let error = client.event_hub_properties().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    client.close().await;
}
