//! Signatures that the application mints, one after the other.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::Secret;
use crate::error::BoxError;

type Mint = dyn Fn(String) -> BoxFuture<'static, Result<Secret, BoxError>> + Send + Sync;

/// The application's own source of shared access signatures.
#[derive(Clone)]
pub(crate) struct SignatureSource(Arc<Mint>);

impl SignatureSource {
    pub(crate) fn new<F, Fut>(mint: F) -> Self
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Secret, BoxError>> + Send + 'static,
    {
        Self(Arc::new(move |resource| mint(resource).boxed()))
    }

    /// A new signature for a resource.
    pub(crate) fn mint(&self, resource: String) -> BoxFuture<'static, Result<Secret, BoxError>> {
        (self.0)(resource)
    }
}

impl fmt::Debug for SignatureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignatureSource(…)")
    }
}
