"""The unmodified Python SDK (aio) with the defaults of its client.

`event` calls back for each event, `batch` with up to 300, which is the default of `receive_batch`. The checkpoint store
is the SDK's own for memory. With one, it claims partitions as a processor does.
"""

import asyncio
import os
import sys
import time

from azure.eventhub.aio import EventHubConsumerClient
from azure.eventhub.aio._eventprocessor.in_memory_checkpoint_store import InMemoryCheckpointStore


def setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: run the bench, not its parts")
    return value


class Meter:
    """The counterpart of `../rust/meter.rs`."""

    def __init__(self) -> None:
        self.events = dict.fromkeys(map(str, range(int(setting("PARTITIONS")))), 0)
        self.first_seen = asyncio.Event()
        self.started = time.monotonic()

    def count(self, partition: str, events: int) -> tuple[int, int]:
        before = self.events[partition]
        self.events[partition] = before + events
        if before == 0:
            self.first_seen.set()
        return before, before + events

    async def report(self) -> None:
        await self.first_seen.wait()
        since_run = (time.monotonic() - self.started) * 1e3
        print(f'{{"first":{{"since_run_ms":{since_run:.3f}}}}}', flush=True)
        await asyncio.sleep(int(setting("SETTLE_MS")) / 1e3)
        begin, before, used = time.monotonic(), sum(self.events.values()), time.process_time()
        await asyncio.sleep(int(setting("SAMPLE_MS")) / 1e3)
        seconds, events = time.monotonic() - begin, sum(self.events.values()) - before
        cpu = (time.process_time() - used) * 1e6
        partitions = sum(1 for count in self.events.values() if count)
        print(f'{{"sample":{{"seconds":{seconds:.6f},"events":{events},"cpu_us":{cpu:.0f},'
              f'"partitions":{partitions},"most":{max(self.events.values())}}}}}', flush=True)


async def main(way: str) -> None:
    checkpoint_every = int(setting("CHECKPOINT_EVERY"))
    meter = Meter()
    reporting = asyncio.create_task(meter.report())
    port = setting("AMQP_PORT")
    client = EventHubConsumerClient.from_connection_string(
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true",
        consumer_group="$Default",
        eventhub_name=setting("HUB"),
        checkpoint_store=InMemoryCheckpointStore(),
    )

    handler_time = int(setting("HANDLER_MS")) / 1e3

    async def counted(context, events: int, last) -> None:
        before, now = meter.count(context.partition_id, events)
        if before // checkpoint_every != now // checkpoint_every:
            await context.update_checkpoint(last)

    async def on_event(context, event) -> None:
        event.body
        if handler_time:
            await asyncio.sleep(handler_time)
        await counted(context, 1, event)

    async def on_event_batch(context, events) -> None:
        for event in events:
            event.body
        await counted(context, len(events), events[-1])

    async def on_error(context, error) -> None:
        sys.exit(f"{type(error).__name__}: {error}")

    async with client:
        match way:
            case "event":
                await client.receive(on_event, on_error=on_error, starting_position="-1")
            case "batch":
                await client.receive_batch(on_event_batch, on_error=on_error, starting_position="-1")
            case _:
                sys.exit("usage: client.py event|batch")
    await reporting


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
