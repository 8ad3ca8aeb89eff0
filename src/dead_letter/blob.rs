//! Dead letters in blob storage.

use async_trait::async_trait;

use super::{DeadLetter, DeadLetterSink, json};
use crate::checkpoint::{BlobCheckpointStoreOptions, BlobFolder, BlobStoreConfigError};
use crate::credential::StorageCredential;
use crate::error::BoxError;

/// Stores each dead letter as a blob of its own.
///
/// The blob's name is `{namespace}/{event hub}/{consumer group}/deadletter/{partition}/{sequence number}`, the first three
/// as in the names of checkpoints ([`NameCase`](crate::checkpoint::NameCase)), the number in twenty digits, so that a
/// listing is in the order of the partition. A letter that is stored twice is one blob.
///
/// The container must exist. It may be that of the checkpoints: no SDK looks at such names when it lists ownership or
/// checkpoints. One of its own is easier to keep an eye on, and to give a retention rule.
///
/// # Format
///
/// UTF-8 JSON, `Content-Type: application/json`:
///
/// ```json
/// {
///   "version": 1,
///   "reason": "bad customer number",
///   "attempts": 3,
///   "failedAt": 1764158400000,
///   "namespace": "contoso.servicebus.windows.net",
///   "eventHub": "telemetry",
///   "consumerGroup": "$Default",
///   "partitionId": "3",
///   "ownerId": "rs1-25000-host-7",
///   "sequenceNumber": "4711",
///   "offset": "8591964920",
///   "enqueuedTime": 1764158399123,
///   "partitionKey": "customer-12",
///   "body": {"kind": "data", "base64": "aGVsbG8="},
///   "properties": {"attempt": {"type": "int", "value": 2}},
///   "systemProperties": {},
///   "messageProperties": {"contentType": "text/plain", "messageId": {"type": "string", "value": "m-1"}}
/// }
/// ```
///
/// An event that could not be decoded has its encoded message as the body, and `"undecodable"` says what is wrong with it.
///
/// Times are milliseconds since the Unix epoch. `partitionKey` is absent if the event has none, and so are message
/// properties that it lacks; `userId` among these is `{"type": "binary", …}`. A body is
/// `{"kind": "data", "base64": …}`, `{"kind": "value", "value": V}` or `{"kind": "sequence", "sections": [[V, …], …]}`.
///
/// A value `V` is `{"type": T, "value": …}` with the AMQP type: `null` (without `value`), `boolean`, `ubyte`, `ushort`,
/// `uint`, `byte`, `short`, `int` as they are in JSON; `ulong`, `long` and `timestamp` (milliseconds) as text, since not
/// every reader has 64 bits; `float` and `double` as a number, or as the text `NaN`, `inf` or `-inf`; `char`, `string`,
/// `symbol` as text; `uuid` and `decimal32`, `decimal64`, `decimal128` as hexadecimal digits in network order; `binary` as
/// base64; `list` and `array` as a list of values; `map` as a list of `[key, value]`; `described` as
/// `{"type": "described", "descriptor": V, "value": V}`.
///
/// # Examples
///
/// ```
/// use eventhubs_processor::BlobDeadLetters;
///
/// let sink = BlobDeadLetters::from_connection_string("UseDevelopmentStorage=true", "dead-letters")?;
/// # Ok::<(), eventhubs_processor::checkpoint::BlobStoreConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BlobDeadLetters {
    folder: BlobFolder,
}

impl BlobDeadLetters {
    /// A sink in the container of the account that the connection string names, with default options.
    ///
    /// # Errors
    ///
    /// [`BlobStoreConfigError`] if the connection string or the container name cannot be used. The account is not
    /// contacted.
    pub fn from_connection_string(
        connection_string: &str,
        container_name: &str,
    ) -> Result<Self, BlobStoreConfigError> {
        let options = BlobCheckpointStoreOptions::default();
        Self::from_connection_string_with_options(connection_string, container_name, options)
    }

    /// As [`from_connection_string`](Self::from_connection_string), with options: client library, protocol version, case
    /// of names, timeouts and retry. The others mean nothing here.
    ///
    /// # Errors
    ///
    /// As [`from_connection_string`](Self::from_connection_string), and for options that cannot be.
    pub fn from_connection_string_with_options(
        connection_string: &str,
        container_name: &str,
        options: BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let folder = BlobFolder::parse(connection_string, container_name, options)?;
        Ok(Self { folder })
    }

    /// A sink in a container of the account at `account_url`. A shared access signature must allow to create and write
    /// blobs.
    ///
    /// # Errors
    ///
    /// [`BlobStoreConfigError`] if a part cannot be used; a token credential needs an https URL. The account is not
    /// contacted.
    pub fn new(
        account_url: &str,
        container_name: &str,
        credential: StorageCredential,
        options: BlobCheckpointStoreOptions,
    ) -> Result<Self, BlobStoreConfigError> {
        let folder = BlobFolder::new(account_url, container_name, credential, options)?;
        Ok(Self { folder })
    }
}

#[async_trait]
impl DeadLetterSink for BlobDeadLetters {
    async fn store(&self, letter: &DeadLetter) -> Result<(), BoxError> {
        let stored = self.folder.put_dead_letter(
            &letter.scope,
            &letter.partition_id,
            letter.event.sequence_number(),
            json::encode(letter).into(),
        );
        Ok(stored.await?)
    }
}
