// The unmodified JavaScript SDK. `default` leaves everything as it is; `batch` sets `maxBatchSize: 300`. Without a
// checkpoint store of the user's it reads all partitions, and keeps checkpoints in a store of its own for memory.

import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

function setting(name) {
  const value = process.env[name];
  if (!value) fail(`${name} is not set: run the bench, not its parts`);
  return value;
}

function fail(message) {
  console.error(message);
  process.exit(1);
}

// The packages are installed elsewhere, not beside this file.
const load = createRequire(join(setting("PEERS_JS"), "package.json"));
const { EventHubConsumerClient, earliestEventPosition } = load("@azure/event-hubs");

// The counterpart of `../rust/meter.rs`.
class Meter {
  events = new Map(Array.from({ length: Number(setting("PARTITIONS")) }, (_, id) => [String(id), 0]));
  started = performance.now();

  count(partition, events) {
    const before = this.events.get(partition);
    this.events.set(partition, before + events);
    if (!this.isFirstSeen) {
      this.isFirstSeen = true;
      this.report(performance.now() - this.started);
    }
    return [before, before + events];
  }

  report(sinceRun) {
    writeSync(1, `${JSON.stringify({ first: { since_run_ms: sinceRun } })}\n`);
    setTimeout(() => this.sample(), Number(setting("SETTLE_MS")));
  }

  sample() {
    const [from, before, used] = [performance.now(), this.total(), process.cpuUsage()];
    setTimeout(() => {
      const { user, system } = process.cpuUsage(used);
      const counts = [...this.events.values()];
      const sample = {
        seconds: (performance.now() - from) / 1e3,
        events: this.total() - before,
        cpu_us: user + system,
        partitions: counts.filter((count) => count > 0).length,
        most: Math.max(...counts),
      };
      writeSync(1, `${JSON.stringify({ sample })}\n`);
    }, Number(setting("SAMPLE_MS")));
  }

  total() {
    let total = 0;
    for (const count of this.events.values()) total += count;
    return total;
  }
}

const ways = { default: {}, batch: { maxBatchSize: 300 } };
const way = ways[process.argv[2]] ?? fail("usage: client.mjs default|batch");
const checkpointEvery = Number(setting("CHECKPOINT_EVERY"));
const handlerMs = Number(setting("HANDLER_MS"));
const meter = new Meter();
const endpoint = `sb://127.0.0.1:${setting("AMQP_PORT")}`;

async function counted(context, events, last) {
  const [before, now] = meter.count(context.partitionId, events);
  if (Math.floor(before / checkpointEvery) !== Math.floor(now / checkpointEvery)) {
    await context.updateCheckpoint(last);
  }
}

const client = new EventHubConsumerClient(
  "$Default",
  `Endpoint=${endpoint};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true`,
  setting("HUB"),
);
client.subscribe(
  {
    async processEvents(events, context) {
      if (events.length === 0) return;
      if (handlerMs > 0) {
        for (const event of events) {
          await sleep(handlerMs);
          await counted(context, 1, event);
        }
      } else {
        await counted(context, events.length, events.at(-1));
      }
    },
    async processError(error) {
      fail(`${error.name}: ${error.message}`);
    },
  },
  { startPosition: earliestEventPosition, ...way },
);
