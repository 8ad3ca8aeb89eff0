//! The buffered producer came with 0.16.

use crate::features::unsupported;
use crate::namespace::BoxError;

pub async fn send() -> Result<(), BoxError> {
    unsupported("buffered", "since 0.16");
    Ok(())
}
