//! Settings of the blob store, and what can be wrong with them.

use std::time::Duration;

use super::LegacyCheckpoints;
use crate::credential::ConnectionStringError;
use crate::network::{Proxy, TlsOptions};
use crate::retry::RetryOptions;

/// How names of namespace, event hub and consumer group become part of blob names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NameCase {
    /// In lower case, as the .NET, Java, JavaScript and Python processors write them. Event Hubs itself does
    /// not tell the cases apart.
    #[default]
    Folded,
    /// As they are spelled, as the Go and the official Rust processors write them. Choose it to share a
    /// consumer group with those while its names contain capitals, and spell them the same everywhere.
    Verbatim,
}

/// What the store does when it finds, in its first listing of a consumer group, that other processors of the group run
/// and keep their records under another spelling of its names. Neither side sees the other, and both read every
/// partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SplitGroup {
    /// Fails the listing with [`SplitGroup`](crate::error::StoreErrorKind::SplitGroup), and so keeps a processor from
    /// starting. Also fails where it cannot be found out.
    Refuse,
    /// Logs a warning.
    #[default]
    Warn,
}

/// The client library that carries the requests. Records, conditions, deadlines and retries are the same over
/// each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlobBackend {
    /// `azure_storage_blob` 1.x, which Microsoft supports.
    #[default]
    Supported,
    /// `azure_storage_blobs` 0.21, which gets no updates any more. For programs that cannot have `azure_core` 1.x
    /// in the version that the supported crate asks for, and for comparison.
    ///
    /// It is used with a connection pool, timeouts, signatures and error handling of this crate, because its own
    /// open a connection for every request, wait for ever, and log the `Authorization` header. Its dependencies have
    /// known advisories: `quick-xml` 0.31 (RUSTSEC-2026-0194, RUSTSEC-2026-0195: an answer can cost much time; answers
    /// are limited in size here, and come from your storage account), `rand` 0.7 (RUSTSEC-2026-0097), `http-types`
    /// (RUSTSEC-2026-0174), and `instant` and `paste`, which are unmaintained.
    #[cfg(feature = "legacy-storage")]
    Legacy,
}

/// Settings of a [`BlobCheckpointStore`](super::BlobCheckpointStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobCheckpointStoreOptions {
    /// The client library that carries the requests. Default [`BlobBackend::Supported`].
    pub backend: BlobBackend,
    /// Version of the storage protocol (`x-ms-version`). Default `2021-12-02`: old enough for Azure Stack and
    /// for storage emulators, and nothing newer is needed. The same over each client library. Python calls it
    /// `api_version` too.
    pub api_version: String,
    /// Where to look for checkpoints that processors of earlier generations left. Default `None`: nowhere.
    pub legacy_checkpoints: Option<LegacyCheckpoints>,
    /// Whether names are folded to lower case. Default [`NameCase::Folded`].
    pub name_case: NameCase,
    /// What to do about processors of the same group under another spelling. Default [`SplitGroup::Warn`].
    pub split_group: SplitGroup,
    /// How a request is sent again that failed in a way that may pass.
    ///
    /// Default: once, after 0.125 to 0.25 s. The load balancer comes round again anyway, so more only delays it. If the
    /// store asks for a wait longer than `max_delay` (1 s), that is left to the caller, with the error
    /// ([`StoreError::retry_after`](crate::StoreError::retry_after)): the processor waits for it.
    ///
    /// `try_timeout`, 5 s, is for one request, from connecting to the last byte of the answer: short against an ownership
    /// expiration of 60 to 180 s, so that one lost packet costs no partition.
    pub retry: RetryOptions,
    /// How long one operation may take with all its requests: retries, further pages, reading back. Default 15 s.
    pub operation_timeout: Duration,
    /// The HTTP proxy to go through. Default: [`Proxy::FromEnvironment`].
    pub proxy: Proxy,
    /// Whom to trust. Default: whom the platform trusts.
    pub tls: TlsOptions,
}

impl Default for BlobCheckpointStoreOptions {
    fn default() -> Self {
        Self {
            backend: BlobBackend::Supported,
            api_version: "2021-12-02".to_owned(),
            legacy_checkpoints: None,
            name_case: NameCase::Folded,
            split_group: SplitGroup::Warn,
            retry: RetryOptions::default()
                .with_max_retries(1)
                .with_delay(Duration::from_millis(250), Duration::from_secs(1))
                .with_try_timeout(Duration::from_secs(5)),
            operation_timeout: Duration::from_secs(15),
            proxy: Proxy::FromEnvironment,
            tls: TlsOptions::default(),
        }
    }
}

impl BlobCheckpointStoreOptions {
    /// Sets [`backend`](Self::backend).
    #[must_use]
    pub fn with_backend(mut self, backend: BlobBackend) -> Self {
        self.backend = backend;
        self
    }

    /// Sets [`api_version`](Self::api_version).
    #[must_use]
    pub fn with_api_version(mut self, api_version: impl Into<String>) -> Self {
        self.api_version = api_version.into();
        self
    }

    /// Sets [`legacy_checkpoints`](Self::legacy_checkpoints).
    #[must_use]
    pub fn with_legacy_checkpoints(mut self, legacy_checkpoints: LegacyCheckpoints) -> Self {
        self.legacy_checkpoints = Some(legacy_checkpoints);
        self
    }

    /// Sets [`split_group`](Self::split_group).
    #[must_use]
    pub fn with_split_group(mut self, split_group: SplitGroup) -> Self {
        self.split_group = split_group;
        self
    }

    /// Sets [`name_case`](Self::name_case).
    #[must_use]
    pub fn with_name_case(mut self, name_case: NameCase) -> Self {
        self.name_case = name_case;
        self
    }

    /// Sets [`retry`](Self::retry).
    #[must_use]
    pub fn with_retry(mut self, retry: RetryOptions) -> Self {
        self.retry = retry;
        self
    }

    /// Sets [`retry.try_timeout`](RetryOptions::try_timeout).
    #[must_use]
    pub fn with_try_timeout(mut self, try_timeout: Duration) -> Self {
        self.retry.try_timeout = try_timeout;
        self
    }

    /// Sets [`operation_timeout`](Self::operation_timeout).
    #[must_use]
    pub fn with_operation_timeout(mut self, operation_timeout: Duration) -> Self {
        self.operation_timeout = operation_timeout;
        self
    }

    /// Sets [`retry.max_retries`](RetryOptions::max_retries).
    #[must_use]
    pub fn with_max_retries(mut self, max_retries: u32) -> Self {
        self.retry.max_retries = max_retries;
        self
    }

    /// Sets [`proxy`](Self::proxy): an [`HttpProxy`](crate::network::HttpProxy), or [`Proxy::Direct`].
    #[must_use]
    pub fn with_proxy(mut self, proxy: impl Into<Proxy>) -> Self {
        self.proxy = proxy.into();
        self
    }

    /// Sets [`tls`](Self::tls).
    #[must_use]
    pub fn with_tls(mut self, tls: TlsOptions) -> Self {
        self.tls = tls;
        self
    }

    pub(super) fn check(&self) -> Result<(), BlobStoreConfigError> {
        let invalid = |option, reason| BlobStoreConfigError::InvalidOption { option, reason };
        let is_version = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.api_version.is_empty() || !self.api_version.chars().all(is_version) {
            return Err(invalid(
                "api_version",
                "it must be a date such as 2021-12-02",
            ));
        }
        if let Some(legacy) = &self.legacy_checkpoints {
            legacy.check()?;
        }
        if self.retry.try_timeout.is_zero() {
            return Err(invalid("try_timeout", "it must not be zero"));
        }
        if self.operation_timeout < self.retry.try_timeout {
            return Err(invalid(
                "operation_timeout",
                "it must not be shorter than try_timeout",
            ));
        }
        Ok(())
    }
}

/// A blob store that cannot be set up as asked. Shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlobStoreConfigError {
    /// The client library refused the configuration.
    #[error("the storage client cannot be set up")]
    Client,
    /// The connection string, or a credential handed over in parts, cannot be used.
    #[error(transparent)]
    ConnectionString(#[from] ConnectionStringError),
    /// A token would travel without encryption.
    #[error("a token credential needs an https account URL, except on this machine")]
    InsecureTransport,
    /// The account URL is not the http or https URL of a blob service.
    #[error("the account URL is not valid: {reason}")]
    InvalidAccountUrl {
        /// What was expected.
        reason: &'static str,
    },
    /// The container has a name that no container can have.
    #[error(
        "the container name must be 3 to 63 lower-case letters, digits and single hyphens between them"
    )]
    InvalidContainerName,
    /// An option has a value that it cannot have.
    #[error("the option `{option}` is not valid: {reason}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// What was expected.
        reason: &'static str,
    },
}
