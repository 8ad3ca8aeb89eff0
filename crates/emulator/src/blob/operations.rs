//! What each operation does with a request, and what it answers.

use super::{
    auth::Grant,
    conditions::Conditions,
    errors::{ErrorCode, StorageError},
    list::{self, ListQuery},
    metadata::Metadata,
    request::{Operation, Target},
    response::Reply,
    service::{Admitted, BlobService},
    spelling::Spelling,
    state::ContentHeaders,
    xml,
};
use axum::http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, HOST, RANGE},
    request::Parts,
};

impl BlobService {
    /// Applies a request that was let through.
    pub(super) fn apply(
        &self,
        parts: &Parts,
        admitted: Admitted,
        spelling: &Spelling,
    ) -> Result<Reply, StorageError> {
        let Admitted {
            target,
            grant,
            content,
        } = admitted;
        let now = self.options().clock.now();
        let (container, blob) = (target.container(), target.blob());
        let conditions = Conditions::from_headers(&parts.headers)?;
        let metadata = || Metadata::from_headers(&parts.headers, |name| spelling.of(name));
        let reply = match target.operation {
            Operation::CreateContainer => {
                let version = self.store().create_container(container, metadata()?, now)?;
                Reply::written(StatusCode::CREATED, version)
            }
            Operation::DeleteContainer => {
                self.store().delete_container(container)?;
                Reply::new(StatusCode::ACCEPTED)
            }
            Operation::GetContainerProperties => {
                Reply::container(self.store().container(container)?)
            }
            Operation::ListContainers => self.list_containers(parts, &target)?,
            Operation::ListBlobs => self.list_blobs(parts, &target)?,
            Operation::PutBlob => {
                check_blob_type(&parts.headers)?;
                let headers = content_headers(&parts.headers);
                let upload = (content, headers, metadata()?);
                let mut store = self.store();
                if grant == Grant::CreateOnly && store.has_blob(container, blob) {
                    return Err(ErrorCode::AuthorizationPermissionMismatch.into());
                }
                let version = store.put_blob(container, blob, upload, &conditions, now)?;
                encrypted(Reply::written(StatusCode::CREATED, version))
            }
            Operation::SetBlobMetadata => {
                let metadata = metadata()?;
                let mut store = self.store();
                let version = store.set_metadata(container, blob, metadata, &conditions, now)?;
                encrypted(Reply::written(StatusCode::OK, version))
            }
            Operation::GetBlobMetadata => {
                let store = self.store();
                let blob = store.blob(container, blob, &conditions)?;
                let mut reply = Reply::written(StatusCode::OK, blob.version());
                reply.metadata(&blob.metadata);
                reply
            }
            Operation::GetBlobProperties => {
                let store = self.store();
                let blob = store.blob(container, blob, &conditions)?;
                let mut reply = Reply::blob(blob);
                reply
                    .headers
                    .insert(CONTENT_LENGTH, blob.content.len().into());
                reply
            }
            Operation::GetBlob => {
                let store = self.store();
                let blob = store.blob(container, blob, &conditions)?;
                let header = parts.headers.get("x-ms-range");
                let range = header.or_else(|| parts.headers.get(RANGE));
                let range = range.and_then(|value| value.to_str().ok());
                Reply::blob(blob).with_content(&blob.content, range)?
            }
            Operation::DeleteBlob => {
                self.store().delete_blob(container, blob, &conditions)?;
                let mut reply = Reply::new(StatusCode::ACCEPTED);
                reply.set("x-ms-delete-type-permanent", "true");
                reply
            }
        };
        Ok(reply)
    }

    fn list_containers(&self, parts: &Parts, target: &Target) -> Result<Reply, StorageError> {
        let mut query = list_query(target)?;
        query.delimiter.clear();
        let with_metadata = includes_metadata(target)?;
        let store = self.store();
        let page = list::page(store.containers(), &query)?;
        let endpoint = self.endpoint(parts);
        body(xml::containers(&endpoint, &query, &page, with_metadata))
    }

    fn list_blobs(&self, parts: &Parts, target: &Target) -> Result<Reply, StorageError> {
        let query = list_query(target)?;
        let with_metadata = includes_metadata(target)?;
        let store = self.store();
        let frozen = self.stale();
        let shown = frozen.as_ref().unwrap_or(&store);
        let container = shown.container(target.container())?;
        let page = list::page(&container.blobs, &query)?;
        let place = (self.endpoint(parts), target.container());
        body(xml::blobs(
            (&place.0, place.1),
            &query,
            &page,
            with_metadata,
        ))
    }

    fn endpoint(&self, parts: &Parts) -> String {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        format!(
            "http://{}/{}/",
            host.unwrap_or_default(),
            self.options().account
        )
    }
}

fn check_blob_type(headers: &HeaderMap) -> Result<(), StorageError> {
    const NAME: &str = "x-ms-blob-type";
    match headers
        .get(NAME)
        .map(|value| value.to_str().unwrap_or_default())
    {
        Some("BlockBlob") => Ok(()),
        Some("AppendBlob" | "PageBlob") => Err(ErrorCode::NotImplemented.into()),
        Some(other) => Err(StorageError::header(
            ErrorCode::InvalidHeaderValue,
            NAME,
            other,
        )),
        None => Err(StorageError::header(
            ErrorCode::MissingRequiredHeader,
            NAME,
            "",
        )),
    }
}

fn content_headers(headers: &HeaderMap) -> ContentHeaders {
    let text = |names: [&str; 2]| {
        let mut found = names.iter().filter_map(|name| headers.get(*name));
        Some(found.next()?.to_str().ok()?.to_owned())
    };
    ContentHeaders {
        // PROTOCOL: the default of the service.
        content_type: text(["x-ms-blob-content-type", "content-type"])
            .filter(|kind| !kind.is_empty())
            .or_else(|| Some("application/octet-stream".to_owned())),
        encoding: text(["x-ms-blob-content-encoding", "content-encoding"]),
        language: text(["x-ms-blob-content-language", "content-language"]),
        md5: text(["x-ms-blob-content-md5", "content-md5"]),
        cache_control: text(["x-ms-blob-cache-control", "cache-control"]),
        disposition: text(["x-ms-blob-content-disposition", "content-disposition"]),
    }
}

fn encrypted(mut reply: Reply) -> Reply {
    reply.set("x-ms-request-server-encrypted", "true");
    reply
}

fn list_query(target: &Target) -> Result<ListQuery, StorageError> {
    let text = |name: &str| target.query(name).unwrap_or_default().to_owned();
    let max_results = match target.query("maxresults") {
        None | Some("") => None,
        Some(given) => {
            let number: usize = given.parse().map_err(|_| {
                StorageError::query(ErrorCode::InvalidQueryParameterValue, "maxresults", given)
            })?;
            if number == 0 {
                let code = ErrorCode::OutOfRangeQueryParameterValue;
                return Err(StorageError::query(code, "maxresults", given));
            }
            Some(number)
        }
    };
    Ok(ListQuery {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        marker: text("marker"),
        max_results,
    })
}

fn includes_metadata(target: &Target) -> Result<bool, StorageError> {
    // PROTOCOL: these exist; the others have nothing to show here.
    const KNOWN: [&str; 12] = [
        "copy",
        "deleted",
        "deletedwithversions",
        "immutabilitypolicy",
        "legalhold",
        "metadata",
        "permissions",
        "snapshots",
        "system",
        "tags",
        "uncommittedblobs",
        "versions",
    ];
    let include = target.query("include").unwrap_or_default();
    let mut found = false;
    for word in include.split(',').filter(|word| !word.is_empty()) {
        if !KNOWN.contains(&word) {
            let code = ErrorCode::InvalidQueryParameterValue;
            return Err(StorageError::query(code, "include", include));
        }
        found |= word == "metadata";
    }
    Ok(found)
}

fn body(xml: std::io::Result<Vec<u8>>) -> Result<Reply, StorageError> {
    let body = xml.map_err(|_| StorageError::from(ErrorCode::InternalError))?;
    Ok(Reply::xml(StatusCode::OK, body))
}
