// The counterpart of `examples/consume.rs` in JavaScript: the same settings, the same lines, and
// `{"checkpoint": {"partition": …, "sequence_number": …}}` after each checkpoint that the store has confirmed.

import { checkpointStore, eventHubs, printLine, required, storageBlob } from "./lines.mjs";

// Events since the last checkpoint and the last of them, by partition.
const pending = new Map();
const checkpointEvery = Number(process.env.CHECKPOINT_EVERY || 1);

function printLifecycle(lifecycle, context, reason = null) {
  printLine({ lifecycle, partition: context.partitionId || null, reason });
}

async function checkpoint(context) {
  const { event } = pending.get(context.partitionId);
  await context.updateCheckpoint(event);
  pending.delete(context.partitionId);
  printLine({
    checkpoint: { partition: context.partitionId, sequence_number: event.sequenceNumber },
  });
}

const handlers = {
  async processInitialize(context) {
    pending.delete(context.partitionId);
    printLifecycle("initialize", context);
  },
  async processEvents(events, context) {
    for (const event of events) {
      printLine({
        event: {
          owner: "js",
          partition: context.partitionId,
          sequence_number: event.sequenceNumber,
          offset: event.offset,
          enqueued_time_ms: event.enqueuedTimeUtc.getTime(),
          body: event.body.toString(),
        },
      });
      const count = (pending.get(context.partitionId)?.count ?? 0) + 1;
      pending.set(context.partitionId, { count, event });
      if (count >= checkpointEvery) await checkpoint(context);
    }
  },
  async processClose(reason, context) {
    if (reason === eventHubs.CloseReason.Shutdown && pending.has(context.partitionId)) {
      await checkpoint(context);
    }
    printLifecycle("close", context, reason);
  },
  async processError(error, context) {
    printLifecycle("error", context, `${error.name}: ${error.code ?? ""}: ${error.message}`);
  },
};

const container = new storageBlob.ContainerClient(
  required("STORAGE_CONNECTION_STRING"),
  required("CHECKPOINT_CONTAINER"),
);
const client = new eventHubs.EventHubConsumerClient(
  process.env.EVENTHUBS_CONSUMER_GROUP || "$Default",
  required("EVENTHUBS_CONNECTION_STRING"),
  required("EVENTHUB_NAME"),
  new checkpointStore.BlobCheckpointStore(container),
  {
    loadBalancingOptions: {
      strategy: process.env.STRATEGY || "balanced",
      updateIntervalInMs: Number(process.env.LOAD_BALANCING_INTERVAL_MS || 10_000),
      partitionOwnershipExpirationIntervalInMs: Number(process.env.OWNERSHIP_EXPIRATION_MS || 60_000),
    },
  },
);
const isLatest = process.env.START_POSITION === "latest";
const subscription = client.subscribe(handlers, {
  startPosition: isLatest ? eventHubs.latestEventPosition : eventHubs.earliestEventPosition,
  maxBatchSize: 20,
  skipParsingBodyAsJson: true,
  maxWaitTimeInSeconds: 1,
});
async function stop() {
  await subscription.close();
  await client.close();
}
process.once("SIGINT", stop);
process.once("SIGTERM", stop);
