//! Microsoft Entra ID by way of `azure_identity` 1.x (feature `azure-identity`).
//!
//! This is the one module of the crate whose public signatures name a type of another library's:
//! [`EntraCredential::from_azure`] takes any credential of `azure_core` 1.x. With another generation of it, implement
//! [`TokenCredential`] yourself; it is one method.
//!
//! `azure_identity` asks for tokens with an HTTP client of its own: it takes proxies from the environment and trusts what
//! the platform trusts, whatever [`Proxy`](crate::Proxy) and [`TlsOptions`](crate::TlsOptions) say. Where there is an
//! `HTTP_PROXY`, `NO_PROXY` has to name 169.254.169.254, or the proxy is asked for the identity of a virtual machine.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{Secret as AzureSecret, TokenCredential as AzureCredential};
use azure_core::error::ErrorKind;
use azure_identity::{
    ClientSecretCredential, DeveloperToolsCredential, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
};

use super::{AccessToken, IssuerRefusal, Secret, TokenCredential};
use crate::error::BoxError;

/// Tokens of Microsoft Entra ID, for [`EventHubsCredential::token`](super::EventHubsCredential::token) and
/// [`StorageCredential::token`](super::StorageCredential::token) alike.
///
/// The identity needs the roles "Azure Event Hubs Data Receiver" and "Storage Blob Data Contributor".
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
/// use eventhubs_processor::credential::EventHubsCredential;
/// use eventhubs_processor::credential::azure_identity::EntraCredential;
/// use eventhubs_processor::transport::AmqpOptions;
/// use eventhubs_processor::{AmqpTransport, BlobCheckpointStore, BoxError};
///
/// # fn example() -> Result<(), BoxError> {
/// let identity = Arc::new(EntraCredential::managed_identity(None)?);
/// let hub = AmqpTransport::new(
///     "contoso.servicebus.windows.net",
///     "telemetry",
///     EventHubsCredential::token(identity.clone()),
///     AmqpOptions::default(),
/// )?;
/// let store = BlobCheckpointStore::with_token_credential(
///     "https://contoso.blob.core.windows.net",
///     "checkpoints",
///     identity,
/// )?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EntraCredential(Arc<dyn AzureCredential>);

impl EntraCredential {
    /// The identity that is logged in to the Azure CLI (`az`) or, if that gives no token, the Azure Developer CLI (`azd`),
    /// for work on a laptop. Runs the program for every token.
    ///
    /// # Errors
    ///
    /// What `azure_identity` says.
    pub fn developer_tools() -> Result<Self, BoxError> {
        Ok(Self(DeveloperToolsCredential::new(None)?))
    }

    /// The managed identity of the virtual machine or the App Service that this runs on: the one with `client_id`, or
    /// the system-assigned one. `azure_identity` 1.0 knows no other places, such as Azure Arc.
    ///
    /// # Errors
    ///
    /// What `azure_identity` says.
    pub fn managed_identity(client_id: Option<&str>) -> Result<Self, BoxError> {
        let user_assigned_id = client_id.map(|id| UserAssignedId::ClientId(id.to_owned()));
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id,
            ..ManagedIdentityCredentialOptions::default()
        };
        Ok(Self(ManagedIdentityCredential::new(Some(options))?))
    }

    /// The workload identity of a pod, as its environment describes it (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`,
    /// `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_AUTHORITY_HOST`).
    ///
    /// # Errors
    ///
    /// What `azure_identity` says, such as a variable that is missing.
    pub fn workload_identity() -> Result<Self, BoxError> {
        Ok(Self(WorkloadIdentityCredential::new(None)?))
    }

    /// A service principal with a secret.
    ///
    /// # Errors
    ///
    /// What `azure_identity` says, such as a tenant id that is none.
    pub fn client_secret(
        tenant_id: &str,
        client_id: &str,
        secret: impl Into<Secret>,
    ) -> Result<Self, BoxError> {
        let secret = AzureSecret::new(secret.into().expose().to_owned());
        let credential =
            ClientSecretCredential::new(tenant_id, client_id.to_owned(), secret, None)?;
        Ok(Self(credential))
    }

    /// Any credential of `azure_core` 1.x, such as one of `azure_identity` with options of its own.
    #[must_use]
    pub fn from_azure(credential: Arc<dyn AzureCredential>) -> Self {
        Self(credential)
    }
}

impl fmt::Debug for EntraCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EntraCredential").field(&self.0).finish()
    }
}

#[async_trait]
impl TokenCredential for EntraCredential {
    async fn token(&self, scope: &str) -> Result<AccessToken, BoxError> {
        match self.0.get_token(&[scope], None).await {
            Ok(token) => Ok(AccessToken {
                token: Secret::new(token.token.secret()),
                expires_at: token.expires_on.into(),
            }),
            Err(error) if is_refusal(&error) => Err(IssuerRefusal::new(error).into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the issuer has answered and said no. `azure_identity` wraps the answer into an error of another kind.
fn is_refusal(error: &azure_core::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<azure_core::Error>()
            && let ErrorKind::HttpResponse { status, .. } = error.kind()
        {
            return matches!(u16::from(*status), 400 | 401 | 403);
        }
        next = error.source();
    }
    false
}
