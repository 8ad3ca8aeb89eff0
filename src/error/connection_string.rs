//! Connection strings that cannot be used.

/// A connection string that cannot be used. Names the field, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionStringError {
    /// The string is empty or blank.
    #[error("the connection string is empty")]
    Empty,
    /// The string is longer than any real one.
    #[error("the connection string is longer than {limit} bytes")]
    TooLong {
        /// The most bytes accepted.
        limit: usize,
    },
    /// A part between two `;` is not `key=value`.
    #[error("part {index} of the connection string is not `key=value`")]
    NotAPair {
        /// Which part, counted from 1.
        index: usize,
    },
    /// A field has no value.
    #[error("the connection string has an empty `{field}`")]
    EmptyValue {
        /// The field.
        field: &'static str,
    },
    /// A field occurs twice.
    #[error("the connection string has more than one `{field}`")]
    Duplicate {
        /// The field.
        field: &'static str,
    },
    /// A required field is missing.
    #[error("the connection string has no `{field}`")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// Two fields exclude each other.
    #[error("the connection string has both `{first}` and `{second}`")]
    Conflict {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A value is not what the field takes.
    #[error("the connection string's `{field}` is not valid: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What was expected.
        reason: &'static str,
    },
}
