//! Questions about the event hub and its partitions, on a connection of their own.

use azeventhubs::EventHubConnection;
use azeventhubs::consumer::{EventHubConsumerClient, EventHubConsumerClientOptions};
use tokio::time::timeout;

use crate::policy::NoRecovery;
use crate::reader::CLOSE_TIMEOUT;

/// A connection and the client that asks over it.
#[derive(Debug)]
pub(crate) struct Management {
    connection: EventHubConnection,
    pub(crate) client: EventHubConsumerClient<NoRecovery>,
}

impl Management {
    pub(crate) fn new(mut connection: EventHubConnection) -> Self {
        // The group is part of receivers only, of which this client opens none.
        let client = EventHubConsumerClient::with_policy().with_connection(
            EventHubConsumerClient::DEFAULT_CONSUMER_GROUP_NAME,
            &mut connection,
            EventHubConsumerClientOptions::default(),
        );
        Self { connection, client }
    }

    pub(crate) async fn close(self) {
        drop(self.client);
        match timeout(CLOSE_TIMEOUT, self.connection.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("management: not closed in order: {error}"),
            Err(_) => tracing::debug!("management: dropped, because closing takes too long"),
        }
    }
}
