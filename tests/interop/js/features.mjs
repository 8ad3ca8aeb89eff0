// Every feature of the unmodified JavaScript SDK, one after the other, as JSON lines.
//
// What each line has to hold stands in `../strangers/features.rs`, which prepares the event hubs, gives the settings,
// and compares everything with what the emulator has.

import { eventHubs, fail, printLine, required } from "./lines.mjs";

const { EventHubBufferedProducerClient, EventHubConsumerClient, EventHubProducerClient } = eventHubs;
const CONNECTION_STRING = required("EVENTHUBS_CONNECTION_STRING");
const HUB = required("EVENTHUB_NAME");
const WAIT_MS = 20_000;

// Not text for anybody who looks.
function body(text) {
  return Buffer.concat([Buffer.from([0x00, 0xff]), Buffer.from(text)]);
}

function events(label, count) {
  return Array.from({ length: count }, (_, number) => ({ body: body(`${label} ${number}`) }));
}

function show(event) {
  return {
    sequence_number: event.sequenceNumber,
    offset: event.offset,
    enqueued_time_ms: event.enqueuedTimeUtc.getTime(),
    partition_key: event.partitionKey ?? null,
    body: event.body.toString("hex"),
    n: event.properties?.n ?? null,
  };
}

// A receiver of one partition.
class Receiver {
  seen = [];
  errors = [];
  lastEnqueued = null;
  #waiting = null;

  constructor(partition, startPosition, options = {}) {
    this.client = new EventHubConsumerClient("$Default", CONNECTION_STRING, HUB);
    const handlers = {
      processEvents: async (received, context) => {
        this.seen.push(...received.map(show));
        this.lastEnqueued = context.lastEnqueuedEventProperties ?? null;
        this.#waiting?.();
      },
      processError: async (error) => {
        this.errors.push(`${error.name}: ${error.code ?? ""}: ${error.message}`);
        this.#waiting?.();
      },
    };
    this.subscription = this.client.subscribe(partition, handlers, {
      startPosition,
      maxBatchSize: 10,
      skipParsingBodyAsJson: true,
      maxWaitTimeInSeconds: 1,
      ...options,
    });
  }

  async waitFor(what, isThere) {
    if (isThere(this)) return;
    await new Promise((resolve) => {
      const limit = setTimeout(
        () => fail(`no ${what}: ${JSON.stringify(this.seen)}, ${this.errors}`),
        WAIT_MS,
      );
      this.#waiting = () => {
        if (!isThere(this)) return;
        clearTimeout(limit);
        this.#waiting = null;
        resolve();
      };
    });
  }

  async waitForNumber(number) {
    await this.waitFor(`event ${number}`, (it) => (it.seen.at(-1)?.sequence_number ?? -1) >= number);
  }

  async close() {
    await this.subscription.close();
    await this.client.close();
  }
}

async function tellProperties() {
  const client = new EventHubProducerClient(CONNECTION_STRING, HUB);
  const hub = await client.getEventHubProperties();
  printLine({
    hub: { name: hub.name, partition_ids: hub.partitionIds, created_ms: hub.createdOn.getTime() },
  });
  for (const partition of ["0", "1"]) {
    const told = await client.getPartitionProperties(partition);
    printLine({
      partition: {
        hub: told.eventHubName,
        id: told.partitionId,
        begin: told.beginningSequenceNumber,
        last: told.lastEnqueuedSequenceNumber,
        last_offset: told.lastEnqueuedOffset,
        last_time_ms: told.lastEnqueuedOnUtc.getTime(),
        is_empty: told.isEmpty,
      },
    });
  }
  await client.close();
}

async function send() {
  const hub = required("SEND_EVENTHUB_NAME");
  const producer = new EventHubProducerClient(CONNECTION_STRING, hub);
  await producer.sendBatch(events("single", 1));
  printLine({ sent: "single" });
  const batch = await producer.createBatch();
  for (const event of events("batch", 100)) {
    if (!batch.tryAdd(event)) fail("the batch is full");
  }
  await producer.sendBatch(batch);
  printLine({ sent: "batch" });
  await producer.sendBatch(events("key", 5), { partitionKey: "7" });
  printLine({ sent: "key" });
  await producer.sendBatch(events("partition", 5), { partitionId: "2" });
  printLine({ sent: "partition" });
  await producer.close();

  const buffered = new EventHubBufferedProducerClient(CONNECTION_STRING, hub, {
    onSendEventsErrorHandler: async ({ error }) => fail(`not sent: ${error}`),
  });
  for (const event of events("buffered", 50)) await buffered.enqueueEvent(event);
  await buffered.enqueueEvents(events("buffered key", 5), { partitionKey: "7" });
  await buffered.flush();
  await buffered.close();
  printLine({ sent: "buffered" });
}

async function receive() {
  const offset = required("MIDDLE_OFFSET");
  const sequenceNumber = Number(required("MIDDLE_SEQUENCE_NUMBER"));
  const enqueuedOn = Number(required("MIDDLE_TIME_MS"));
  const positions = {
    earliest: eventHubs.earliestEventPosition,
    after_offset: { offset },
    at_offset: { offset, isInclusive: true },
    after_sequence_number: { sequenceNumber },
    at_sequence_number: { sequenceNumber, isInclusive: true },
    after_time: { enqueuedOn },
    at_time: { enqueuedOn, isInclusive: true },
  };
  for (const [position, startPosition] of Object.entries(positions)) {
    const receiver = new Receiver("1", startPosition);
    await receiver.waitForNumber(Number(required("LAST_SEQUENCE_NUMBER")));
    await receiver.close();
    printLine({ received: { position, events: receiver.seen } });
  }
}

async function lastEnqueued() {
  const options = { trackLastEnqueuedEventProperties: true };
  const receiver = new Receiver("1", eventHubs.earliestEventPosition, options);
  await receiver.waitForNumber(Number(required("LAST_SEQUENCE_NUMBER")));
  await receiver.close();
  const told = receiver.lastEnqueued;
  printLine({
    last_enqueued: {
      sequence_number: told.sequenceNumber,
      offset: told.offset,
      time_ms: told.enqueuedOn.getTime(),
    },
  });
}

// The event comes once this receiver is there.
async function latest() {
  const receiver = new Receiver("1", eventHubs.latestEventPosition);
  await receiver.waitFor("event", (it) => it.seen.length > 0);
  await receiver.close();
  printLine({ received: { position: "latest", events: receiver.seen } });
}

// Each event comes once the receiver of that level is there.
async function ownerLevels() {
  const first = new Receiver("3", eventHubs.earliestEventPosition, { ownerLevel: 1 });
  await first.waitForNumber(0);
  const second = new Receiver("3", eventHubs.earliestEventPosition, { ownerLevel: 2 });
  await first.waitFor("error", (it) => it.errors.length > 0);
  await second.waitForNumber(1);
  printLine({ taken: first.errors[0] });
  await first.close();
  const third = new Receiver("3", eventHubs.earliestEventPosition, { ownerLevel: 1 });
  await third.waitFor("error", (it) => it.errors.length > 0);
  printLine({ refused: third.errors[0], seen: third.seen });
  await third.close();
  await second.waitForNumber(2);
  printLine({ kept: second.errors });
  await second.close();
}

async function features() {
  await tellProperties();
  await send();
  await receive();
  await lastEnqueued();
}

const modes = { features, latest, "owner-levels": ownerLevels };
const mode = modes[process.argv[2]] ?? fail(`usage: features.mjs ${Object.keys(modes).join("|")}`);
await mode();
