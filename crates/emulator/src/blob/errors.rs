//! Storage error codes with the status and text the service gives them.

use axum::http::StatusCode;

/// An error code of the Blob service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    AuthenticationFailed,
    AuthorizationFailure,
    AuthorizationPermissionMismatch,
    AuthorizationProtocolMismatch,
    AuthorizationResourceTypeMismatch,
    AuthorizationServiceMismatch,
    BlobAlreadyExists,
    BlobNotFound,
    ConditionNotMet,
    ContainerAlreadyExists,
    ContainerNotFound,
    EmptyMetadataKey,
    InsufficientStorage,
    InternalError,
    InvalidHeaderValue,
    InvalidMetadata,
    InvalidQueryParameterValue,
    InvalidRange,
    InvalidResourceName,
    InvalidUri,
    MetadataTooLarge,
    MissingContentLengthHeader,
    MissingRequiredHeader,
    MultipleConditionHeadersNotSupported,
    NoAuthenticationInformation,
    NotImplemented,
    NotModified,
    OperationTimedOut,
    OutOfRangeQueryParameterValue,
    RequestBodyTooLarge,
    ResourceNameLength,
    ResourceNotFound,
    UnsatisfiableCondition,
    UnsupportedHttpVerb,
}

impl ErrorCode {
    /// The text of `x-ms-error-code`.
    pub(crate) fn as_str(self) -> &'static str {
        self.parts().1
    }

    /// The HTTP status that goes with the code.
    pub(crate) fn status(self) -> StatusCode {
        self.parts().0
    }

    /// The human text that goes with the code.
    pub(crate) fn message(self) -> &'static str {
        self.parts().2
    }

    // PROTOCOL: codes, statuses and texts as in "Common REST API error codes" and "Blob Storage
    // error codes" of the REST reference; client logs quote the text, so it is kept as sent,
    // the service's own misspelling in `InvalidResourceName` included.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::AuthenticationFailed => (
                StatusCode::FORBIDDEN,
                "AuthenticationFailed",
                "Server failed to authenticate the request. Make sure the value of Authorization \
                 header is formed correctly including the signature.",
            ),
            Self::AuthorizationFailure => (
                StatusCode::FORBIDDEN,
                "AuthorizationFailure",
                "This request is not authorized to perform this operation.",
            ),
            Self::AuthorizationPermissionMismatch => (
                StatusCode::FORBIDDEN,
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            ),
            Self::AuthorizationProtocolMismatch => (
                StatusCode::FORBIDDEN,
                "AuthorizationProtocolMismatch",
                "This request is not authorized to perform this operation using this protocol.",
            ),
            Self::AuthorizationResourceTypeMismatch => (
                StatusCode::FORBIDDEN,
                "AuthorizationResourceTypeMismatch",
                "This request is not authorized to perform this operation using this resource type.",
            ),
            Self::AuthorizationServiceMismatch => (
                StatusCode::FORBIDDEN,
                "AuthorizationServiceMismatch",
                "This request is not authorized to perform this operation using this service.",
            ),
            Self::BlobAlreadyExists => (
                StatusCode::CONFLICT,
                "BlobAlreadyExists",
                "The specified blob already exists.",
            ),
            Self::BlobNotFound => (
                StatusCode::NOT_FOUND,
                "BlobNotFound",
                "The specified blob does not exist.",
            ),
            Self::ConditionNotMet => (
                StatusCode::PRECONDITION_FAILED,
                "ConditionNotMet",
                "The condition specified using HTTP conditional header(s) is not met.",
            ),
            Self::ContainerAlreadyExists => (
                StatusCode::CONFLICT,
                "ContainerAlreadyExists",
                "The specified container already exists.",
            ),
            Self::ContainerNotFound => (
                StatusCode::NOT_FOUND,
                "ContainerNotFound",
                "The specified container does not exist.",
            ),
            Self::EmptyMetadataKey => (
                StatusCode::BAD_REQUEST,
                "EmptyMetadataKey",
                "The key for one of the metadata key-value pairs is empty.",
            ),
            // The service has no such answer: its accounts are too big to fill. 507 is a status
            // no SDK retries, so a test that fills the emulator ends at once.
            Self::InsufficientStorage => (
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                "The emulator's limit on stored blobs is reached.",
            ),
            Self::InternalError => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                "The server encountered an internal error. Please retry the request.",
            ),
            Self::InvalidHeaderValue => (
                StatusCode::BAD_REQUEST,
                "InvalidHeaderValue",
                "The value for one of the HTTP headers is not in the correct format.",
            ),
            Self::InvalidMetadata => (
                StatusCode::BAD_REQUEST,
                "InvalidMetadata",
                "The metadata specified is invalid. It has characters that are not permitted.",
            ),
            Self::InvalidQueryParameterValue => (
                StatusCode::BAD_REQUEST,
                "InvalidQueryParameterValue",
                "Value for one of the query parameters specified in the request URI is invalid.",
            ),
            Self::InvalidRange => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                "InvalidRange",
                "The range specified is invalid for the current size of the resource.",
            ),
            Self::InvalidResourceName => (
                StatusCode::BAD_REQUEST,
                "InvalidResourceName",
                "The specifed resource name contains invalid characters.",
            ),
            Self::InvalidUri => (
                StatusCode::BAD_REQUEST,
                "InvalidUri",
                "The requested URI does not represent any resource on the server.",
            ),
            Self::MetadataTooLarge => (
                StatusCode::BAD_REQUEST,
                "MetadataTooLarge",
                "The specified metadata exceeds the maximum permitted limit.",
            ),
            Self::MissingContentLengthHeader => (
                StatusCode::LENGTH_REQUIRED,
                "MissingContentLengthHeader",
                "The Content-Length header was not specified.",
            ),
            Self::MissingRequiredHeader => (
                StatusCode::BAD_REQUEST,
                "MissingRequiredHeader",
                "An HTTP header that's mandatory for this request is not specified.",
            ),
            Self::MultipleConditionHeadersNotSupported => (
                StatusCode::BAD_REQUEST,
                "MultipleConditionHeadersNotSupported",
                "Multiple condition headers are not supported.",
            ),
            Self::NoAuthenticationInformation => (
                StatusCode::UNAUTHORIZED,
                "NoAuthenticationInformation",
                "Server failed to authenticate the request. Please refer to the information in \
                 the www-authenticate header.",
            ),
            Self::NotImplemented => (
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "The requested operation is not implemented by this emulator.",
            ),
            Self::NotModified => (
                StatusCode::NOT_MODIFIED,
                "ConditionNotMet",
                "The condition specified using HTTP conditional header(s) is not met.",
            ),
            Self::OperationTimedOut => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "OperationTimedOut",
                "The operation could not be completed within the permitted time.",
            ),
            Self::OutOfRangeQueryParameterValue => (
                StatusCode::BAD_REQUEST,
                "OutOfRangeQueryParameterValue",
                "One of the query parameters specified in the request URI is outside the \
                 permissible range.",
            ),
            Self::RequestBodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestBodyTooLarge",
                "The request body is too large and exceeds the maximum permissible limit.",
            ),
            Self::ResourceNameLength => (
                StatusCode::BAD_REQUEST,
                "OutOfRangeInput",
                "The specified resource name length is not within the permissible limits.",
            ),
            Self::ResourceNotFound => (
                StatusCode::NOT_FOUND,
                "ResourceNotFound",
                "The specified resource does not exist.",
            ),
            Self::UnsatisfiableCondition => (
                StatusCode::BAD_REQUEST,
                "UnsatisfiableCondition",
                "The request includes an unsatisfiable condition for this operation.",
            ),
            Self::UnsupportedHttpVerb => (
                StatusCode::METHOD_NOT_ALLOWED,
                "UnsupportedHttpVerb",
                "The resource doesn't support the specified HTTP verb.",
            ),
        }
    }
}

/// A refused request: a code, and the elements that explain it in the error body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", code.as_str())]
pub(crate) struct StorageError {
    /// What went wrong.
    pub(crate) code: ErrorCode,
    /// Extra elements of the XML body, in order.
    pub(crate) details: Vec<(&'static str, String)>,
}

impl StorageError {
    /// The refusal of a header, naming it as the service does.
    pub(crate) fn header(code: ErrorCode, name: &str, value: &str) -> Self {
        let mut details = vec![("HeaderName", name.to_owned())];
        if code == ErrorCode::InvalidHeaderValue {
            details.push(("HeaderValue", value.to_owned()));
        }
        Self { code, details }
    }

    /// The refusal of a query parameter, naming it as the service does.
    pub(crate) fn query(code: ErrorCode, name: &str, value: &str) -> Self {
        Self {
            code,
            details: vec![
                ("QueryParameterName", name.to_owned()),
                ("QueryParameterValue", value.to_owned()),
            ],
        }
    }

    /// A refused signature with the reason in words.
    pub(crate) fn unauthenticated(reason: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::AuthenticationFailed,
            details: vec![("AuthenticationErrorDetail", reason.into())],
        }
    }
}

impl From<ErrorCode> for StorageError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            details: Vec::new(),
        }
    }
}
