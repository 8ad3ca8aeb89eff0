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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const TENANT: &str = "contoso";
const APPLICATION: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT_SECRET: &str = "the-canary-secret";

/// A token endpoint: gives tokens of the emulator to whoever knows the secret.
struct TokenEndpoint {
    url: url::Url,
    asked: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl TokenEndpoint {
    async fn start(emulator: &Arc<Emulator>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<AtomicUsize>::default();
        let (emulator, count) = (Arc::clone(emulator), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 8192];
                let mut len = 0;
                // The body is the form, which ends with the scope.
                while !String::from_utf8_lossy(&bytes[..len]).contains("&scope=") {
                    len += stream.read(&mut bytes[len..]).await.unwrap();
                }
                count.fetch_add(1, Ordering::SeqCst);
                let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                let answer = answer(&text, &emulator);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            url: url.parse().unwrap(),
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The credential as an application would make it, its requests led to this endpoint.
    fn credential(&self, secret: &'static str) -> EntraCredential {
        let options = ClientSecretCredentialOptions {
            client_options: ClientOptions {
                transport: Some(AzureTransport::new(Arc::new(Detour {
                    to: self.url.clone(),
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

fn answer(request: &str, emulator: &Emulator) -> String {
    let (head, form) = request.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with(&format!("POST /{TENANT}/oauth2/v2.0/token ")),
        "{head}"
    );
    let form: std::collections::BTreeMap<_, _> = url::form_urlencoded::parse(form.as_bytes())
        .into_owned()
        .collect();
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["client_id"], APPLICATION);
    let (status, body) = if form["client_secret"] == CLIENT_SECRET {
        let token = emulator.issue_token(&form["scope"], Duration::from_secs(3600));
        let body =
            format!(r#"{{"token_type":"Bearer","expires_in":3600,"access_token":"{token}"}}"#);
        ("200 OK", body)
    } else {
        let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret."}"#;
        ("401 Unauthorized", body.to_owned())
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
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
    assert_eq!(endpoint.asked.load(Ordering::SeqCst), 2);
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
