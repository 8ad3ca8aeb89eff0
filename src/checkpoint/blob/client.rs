//! The client of one container: credential, deadlines, the one retry.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::{ClientOptions, RetryOptions, Transport, UserAgentOptions};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use rand::RngExt as _;
use tokio::time::Instant;
use url::Url;

use super::errors::{Class, Failure};
use super::http::BoundedClient;
use super::shared_key::SharedKeyPolicy;
use super::token::TokenAdapter;
use super::{BlobCheckpointStoreOptions, BlobStoreConfigError};
use crate::credential::StorageCredential;

/// Longest wait before the retry that is honoured within an operation; a longer one is the caller's to spend.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(1);

/// Spread of the wait before the retry, so that processors that failed together do not come back together.
const RETRY_WAIT_MS: std::ops::Range<u64> = 100..400;

/// How a request ended, and whether an earlier try of it may have taken effect unnoticed.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub(super) result: Result<T, Failure>,
    pub(super) is_ambiguous: bool,
}

/// Until when an operation and each of its tries may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// One container, with the credential to reach it.
pub(super) struct Container {
    pub(super) client: BlobContainerClient,
    try_timeout: Duration,
    operation_timeout: Duration,
    tries: u32,
}

impl Container {
    pub(super) fn new(
        account_url: &Url,
        container_name: &str,
        credential: StorageCredential,
        options: &BlobCheckpointStoreOptions,
        http: BoundedClient,
    ) -> Result<Self, BlobStoreConfigError> {
        let mut url = account_url.clone();
        url.path_segments_mut()
            .map_err(|()| BlobStoreConfigError::Client)?
            .pop_if_empty()
            .push(container_name);
        let mut client_options = ClientOptions {
            // Retries are made here, where it is known which of them may hide a write that took effect.
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(http))),
            user_agent: UserAgentOptions {
                application_id: Some("eventhubs-processor".to_owned()),
            },
            ..ClientOptions::default()
        };
        let mut token: Option<Arc<dyn azure_core::credentials::TokenCredential>> = None;
        credential.check()?;
        match credential {
            StorageCredential::AccountKey {
                account_name,
                account_key,
            } => client_options
                .per_try_policies
                .push(Arc::new(SharedKeyPolicy::new(account_name, &account_key)?)),
            StorageCredential::SharedAccessSignature(signature) => {
                let signature = signature.expose();
                url.set_query(Some(signature.strip_prefix('?').unwrap_or(signature)));
            }
            StorageCredential::Token(_) if url.scheme() != "https" => {
                return Err(BlobStoreConfigError::InsecureTransport);
            }
            StorageCredential::Token(credential) => {
                token = Some(Arc::new(TokenAdapter(credential)));
            }
        }
        let client = BlobContainerClient::new(
            url,
            token,
            Some(BlobContainerClientOptions {
                client_options,
                version: options.api_version.clone(),
            }),
        )
        .map_err(|_| BlobStoreConfigError::Client)?;
        Ok(Self {
            client,
            try_timeout: options.try_timeout,
            operation_timeout: options.operation_timeout,
            tries: if options.retry_once { 2 } else { 1 },
        })
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline(Instant::now() + self.operation_timeout)
    }

    /// Sends a request, and once more if it failed in a way that may pass.
    pub(super) async fn run<T, F>(&self, deadline: Deadline, send: impl Fn() -> F) -> Ended<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut is_ambiguous = false;
        let mut left = self.tries;
        loop {
            left -= 1;
            let limit = self.try_timeout.min(deadline.left());
            let failure = match tokio::time::timeout(limit, send()).await {
                Ok(Ok(value)) => {
                    return Ended {
                        result: Ok(value),
                        is_ambiguous,
                    };
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::timeout(limit),
            };
            let jitter = Duration::from_millis(rand::rng().random_range(RETRY_WAIT_MS));
            let wait = failure.retry_after.unwrap_or(jitter);
            let may_retry = left > 0
                && failure.is_worth_a_retry()
                && wait <= MAX_RETRY_WAIT
                && wait < deadline.left();
            if !may_retry {
                return Ended {
                    result: Err(failure),
                    is_ambiguous,
                };
            }
            tracing::debug!(detail = failure.detail, "trying a blob request once more");
            is_ambiguous |= failure.class == Class::Ambiguous;
            tokio::time::sleep(wait).await;
        }
    }
}
