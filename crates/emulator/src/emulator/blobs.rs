//! Containers and blobs of a running emulator.

use super::{Emulator, EmulatorError};
use crate::blob::BlobOperation;

impl Emulator {
    /// Creates a blob container; one that is there already is left as it is.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Container`] if the name is not allowed or there are too many.
    pub fn create_container(&self, name: &str) -> Result<(), EmulatorError> {
        self.blob
            .account()
            .create_container(name)
            .map_err(|code| EmulatorError::Container {
                name: name.to_owned(),
                code: code.to_owned(),
            })
    }

    /// Puts an empty blob with metadata, as another program may have written it.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Blob`] if the blob service would refuse it.
    pub fn put_blob(
        &self,
        container: &str,
        name: &str,
        metadata: &[(&str, &str)],
    ) -> Result<(), EmulatorError> {
        self.blob
            .account()
            .put_blob(container, name, metadata)
            .map_err(|code| EmulatorError::Blob {
                name: name.to_owned(),
                code: code.to_owned(),
            })
    }

    /// The metadata of a blob, if there is one.
    #[must_use]
    pub fn blob_metadata(&self, container: &str, name: &str) -> Option<Vec<(String, String)>> {
        self.blob.account().blob_metadata(container, name)
    }

    /// Deletes a blob container with its blobs, as somebody may do by hand.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Container`] if there is none.
    pub fn delete_container(&self, name: &str) -> Result<(), EmulatorError> {
        self.blob
            .account()
            .delete_container(name)
            .map_err(|code| EmulatorError::Container {
                name: name.to_owned(),
                code: code.to_owned(),
            })
    }

    /// Deletes a blob, as somebody may do by hand.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Blob`] if there is none.
    pub fn delete_blob(&self, container: &str, name: &str) -> Result<(), EmulatorError> {
        self.blob
            .account()
            .delete_blob(container, name)
            .map_err(|code| EmulatorError::Blob {
                name: name.to_owned(),
                code: code.to_owned(),
            })
    }

    /// How many requests of a kind the blob side has let through, those included that faults then
    /// stopped.
    #[must_use]
    pub fn blob_requests(&self, operation: BlobOperation) -> u64 {
        let counts = self.blob.account().counts();
        let of_kind = counts.iter().find(|(kind, _)| *kind == operation);
        of_kind.map_or(0, |(_, count)| *count)
    }
}
