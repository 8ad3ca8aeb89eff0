//! From a request line to an operation on a container or blob.

use axum::http::{Method, Uri};

use super::{
    errors::{ErrorCode, StorageError},
    names::decode_path_part,
};

/// What a request to the blob side asks for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Create Container.
    CreateContainer,
    /// Delete Blob.
    DeleteBlob,
    /// Delete Container.
    DeleteContainer,
    /// Get Blob.
    GetBlob,
    /// Get Blob Metadata.
    GetBlobMetadata,
    /// Get Blob Properties.
    GetBlobProperties,
    /// Get Container Properties or Metadata.
    GetContainerProperties,
    /// List Blobs.
    ListBlobs,
    /// List Containers.
    ListContainers,
    /// Put Blob.
    PutBlob,
    /// Set Blob Metadata.
    SetBlobMetadata,
}

impl Operation {
    /// Whether the operation acts on a single blob.
    pub(crate) fn is_on_blob(self) -> bool {
        match self {
            Self::DeleteBlob
            | Self::GetBlob
            | Self::GetBlobMetadata
            | Self::GetBlobProperties
            | Self::PutBlob
            | Self::SetBlobMetadata => true,
            Self::CreateContainer
            | Self::DeleteContainer
            | Self::GetContainerProperties
            | Self::ListBlobs
            | Self::ListContainers => false,
        }
    }

    fn of(
        method: &Method,
        (container, blob): (bool, bool),
        restype: &str,
        comp: &str,
    ) -> Result<Self, StorageError> {
        let read = method == Method::GET || method == Method::HEAD;
        let operation = match (container, blob, restype, comp) {
            (false, _, "", "list") if method == Method::GET => Self::ListContainers,
            (true, false, "container", "list") if method == Method::GET => Self::ListBlobs,
            (true, false, "container", "" | "metadata") if read => Self::GetContainerProperties,
            (true, false, "container", "") if method == Method::PUT => Self::CreateContainer,
            (true, false, "container", "") if method == Method::DELETE => Self::DeleteContainer,
            (_, true, "", "metadata") if read => Self::GetBlobMetadata,
            (_, true, "", "metadata") if method == Method::PUT => Self::SetBlobMetadata,
            (_, true, "", "") if method == Method::GET => Self::GetBlob,
            (_, true, "", "") if method == Method::HEAD => Self::GetBlobProperties,
            (_, true, "", "") if method == Method::PUT => Self::PutBlob,
            (_, true, "", "") if method == Method::DELETE => Self::DeleteBlob,
            _ if !(read || method == Method::PUT || method == Method::DELETE) => {
                return Err(ErrorCode::UnsupportedHttpVerb.into());
            }
            // Real operations that checkpoint stores do not use: leases, tags, tiers, blocks...
            (_, _, _, comp) if !comp.is_empty() => return Err(ErrorCode::NotImplemented.into()),
            _ => return Err(ErrorCode::InvalidUri.into()),
        };
        Ok(operation)
    }
}

/// The resource and the operation that a request names.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) operation: Operation,
    pub(crate) container: Option<String>,
    pub(crate) blob: Option<String>,
    query: Vec<(String, String)>,
}

impl Target {
    /// Reads path and query; the first path segment must be `account`.
    pub(crate) fn parse(method: &Method, uri: &Uri, account: &str) -> Result<Self, StorageError> {
        let path = uri.path().strip_prefix('/').unwrap_or_default();
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        if decode_path_part(first)? != account {
            return Err(ErrorCode::ResourceNotFound.into());
        }
        let (container, blob) = rest.split_once('/').unwrap_or((rest, ""));
        let part = |text: &str| -> Result<Option<String>, StorageError> {
            (!text.is_empty())
                .then(|| decode_path_part(text))
                .transpose()
        };
        let (container, blob) = (part(container)?, part(blob)?);
        let query = parse_query(uri.query().unwrap_or_default())?;
        let lookup = |name: &str| find(&query, name).unwrap_or_default();
        let operation = Operation::of(
            method,
            (container.is_some(), blob.is_some()),
            lookup("restype"),
            lookup("comp"),
        )?;
        Ok(Self {
            operation,
            container,
            blob,
            query,
        })
    }

    /// The first value of a query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        find(&self.query, name)
    }

    /// All query parameters, decoded, in the order sent.
    pub(crate) fn query_pairs(&self) -> &[(String, String)] {
        &self.query
    }

    /// The container named by the path; operations that reach here without one have none.
    pub(crate) fn container(&self) -> &str {
        self.container.as_deref().unwrap_or_default()
    }

    /// The blob named by the path.
    pub(crate) fn blob(&self) -> &str {
        self.blob.as_deref().unwrap_or_default()
    }
}

fn find<'q>(query: &'q [(String, String)], name: &str) -> Option<&'q str> {
    query
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn parse_query(query: &str) -> Result<Vec<(String, String)>, StorageError> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // INTEROP: clients built on form encoding (the Rust `url` crate) send a space as `+`;
            // all of them send a plus sign as `%2B`.
            let value = value.replace('+', "%20");
            Ok((decode_path_part(name)?, decode_path_part(&value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &Method, uri: &str) -> Result<Target, ErrorCode> {
        Target::parse(method, &uri.parse().unwrap(), "acc").map_err(|e| e.code)
    }

    #[test]
    fn slashes_in_blob_names_may_be_raw_or_encoded() {
        for uri in ["/acc/con/a/ownership/%240", "/acc/con/a%2Fownership%2F$0"] {
            let target = target(&Method::HEAD, uri).unwrap();
            assert_eq!(target.operation, Operation::GetBlobProperties);
            assert_eq!(
                (target.container(), target.blob()),
                ("con", "a/ownership/$0")
            );
        }
    }

    #[test]
    fn operations_follow_method_and_query() {
        use Operation as O;
        for (method, uri, operation) in [
            (
                Method::PUT,
                "/acc/con?restype=container",
                O::CreateContainer,
            ),
            (
                Method::DELETE,
                "/acc/con/?restype=container",
                O::DeleteContainer,
            ),
            (
                Method::GET,
                "/acc/con?restype=container&comp=list",
                O::ListBlobs,
            ),
            (Method::GET, "/acc/?comp=list", O::ListContainers),
            (Method::PUT, "/acc/con/b?comp=metadata", O::SetBlobMetadata),
            (Method::PUT, "/acc/con/b", O::PutBlob),
        ] {
            assert_eq!(target(&method, uri).unwrap().operation, operation, "{uri}");
        }
    }

    #[test]
    fn unknown_requests_are_refused_with_a_fitting_code() {
        for (method, uri, code) in [
            (
                Method::PUT,
                "/acc/con/b?comp=lease",
                ErrorCode::NotImplemented,
            ),
            (Method::PATCH, "/acc/con/b", ErrorCode::UnsupportedHttpVerb),
            (Method::GET, "/acc/con", ErrorCode::InvalidUri),
            (Method::GET, "/other/con/b", ErrorCode::ResourceNotFound),
            (Method::GET, "/acc/con/%FF", ErrorCode::InvalidUri),
        ] {
            assert_eq!(target(&method, uri).unwrap_err(), code, "{uri}");
        }
    }

    #[test]
    fn query_values_are_decoded_once() {
        let target = target(
            &Method::GET,
            "/acc/c?comp=list&restype=container&prefix=a+%2B%252F",
        );
        assert_eq!(target.unwrap().query("Prefix"), Some("a +%2F"));
    }
}
