"""Every feature of the unmodified asynchronous Python SDK; otherwise as `features.py`."""

import asyncio
import os
import sys
from contextlib import suppress

from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient

from features import CONNECTION_STRING, HUB, WAIT, events, milliseconds, partition_line, positions, show
from lines import print_line, required


class Receiver:
    """A receiver of one partition in a task of its own."""

    def __init__(self, partition: str, **options) -> None:
        self.seen: list[dict] = []
        self.errors: list[str] = []
        self.last_enqueued: dict | None = None
        self.changed = asyncio.Condition()
        self.client = EventHubConsumerClient.from_connection_string(
            CONNECTION_STRING, consumer_group="$Default", eventhub_name=HUB)
        self.task = asyncio.create_task(self.client.receive(
            self.on_event, partition_id=partition, on_error=self.on_error, **options))

    async def on_event(self, context, event) -> None:
        async with self.changed:
            self.seen.append(show(event))
            self.last_enqueued = context.last_enqueued_event_properties
            self.changed.notify_all()

    async def on_error(self, _, error) -> None:
        async with self.changed:
            self.errors.append(f"{type(error).__name__}: {error}")
            self.changed.notify_all()

    async def wait_for(self, what: str, is_there) -> None:
        try:
            async with asyncio.timeout(WAIT), self.changed:
                await self.changed.wait_for(lambda: is_there(self))
        except TimeoutError:
            sys.exit(f"no {what}: {self.seen}, {self.errors}")

    async def wait_for_number(self, number: int) -> None:
        await self.wait_for(f"event {number}", lambda it: it.seen and it.seen[-1]["sequence_number"] >= number)

    async def close(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self.client.close()


async def tell_properties() -> None:
    client = EventHubProducerClient.from_connection_string(CONNECTION_STRING, eventhub_name=HUB)
    async with client:
        hub = await client.get_eventhub_properties()
        print_line({"hub": {
            "name": hub["eventhub_name"],
            "partition_ids": hub["partition_ids"],
            "created_ms": milliseconds(hub["created_at"]),
        }})
        for partition in ["0", "1"]:
            print_line({"partition": partition_line(await client.get_partition_properties(partition))})


async def send() -> None:
    hub = required("SEND_EVENTHUB_NAME")
    async with EventHubProducerClient.from_connection_string(CONNECTION_STRING, eventhub_name=hub) as producer:
        await producer.send_event(events("single", 1)[0])
        print_line({"sent": "single"})
        batch = await producer.create_batch()
        for event in events("batch", 100):
            batch.add(event)
        await producer.send_batch(batch)
        print_line({"sent": "batch"})
        await producer.send_batch(events("key", 5), partition_key="7")
        print_line({"sent": "key"})
        await producer.send_batch(events("partition", 5), partition_id="2")
        print_line({"sent": "partition"})
    failed = []

    async def on_success(*_) -> None:
        pass

    async def on_error(*error) -> None:
        failed.append(error)

    buffered = EventHubProducerClient.from_connection_string(
        CONNECTION_STRING, eventhub_name=hub, buffered_mode=True, on_success=on_success, on_error=on_error)
    async with buffered:
        for event in events("buffered", 50):
            await buffered.send_event(event)
        for event in events("buffered key", 5):
            await buffered.send_event(event, partition_key="7")
        await buffered.flush()
    if failed:
        sys.exit(f"not sent: {failed}")
    print_line({"sent": "buffered"})


async def receive() -> None:
    last = int(required("LAST_SEQUENCE_NUMBER"))
    for name, (position, is_inclusive) in positions().items():
        receiver = Receiver("1", starting_position=position, starting_position_inclusive=is_inclusive)
        await receiver.wait_for_number(last)
        await receiver.close()
        print_line({"received": {"position": name, "events": receiver.seen}})


async def last_enqueued() -> None:
    receiver = Receiver("1", starting_position="-1", track_last_enqueued_event_properties=True)
    await receiver.wait_for_number(int(required("LAST_SEQUENCE_NUMBER")))
    await receiver.close()
    told = receiver.last_enqueued
    print_line({"last_enqueued": {
        "sequence_number": told["sequence_number"],
        "offset": told["offset"],
        "time_ms": milliseconds(told["enqueued_time"]),
    }})


async def latest() -> None:
    receiver = Receiver("1", starting_position="@latest")
    await receiver.wait_for("event", lambda it: it.seen)
    await receiver.close()
    print_line({"received": {"position": "latest", "events": receiver.seen}})


async def owner_levels() -> None:
    first = Receiver("3", starting_position="-1", owner_level=1)
    await first.wait_for_number(0)
    second = Receiver("3", starting_position="-1", owner_level=2)
    await first.wait_for("error", lambda it: it.errors)
    await second.wait_for_number(1)
    print_line({"taken": first.errors[0]})
    await first.close()
    third = Receiver("3", starting_position="-1", owner_level=1)
    await third.wait_for("error", lambda it: it.errors)
    print_line({"refused": third.errors[0], "seen": third.seen})
    await third.close()
    await second.wait_for_number(2)
    print_line({"kept": second.errors})
    await second.close()


async def features() -> None:
    await tell_properties()
    await send()
    await receive()
    await last_enqueued()


if __name__ == "__main__":
    modes = {"features": features, "latest": latest, "owner-levels": owner_levels}
    if sys.argv[1] not in modes:
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} {'|'.join(modes)}")
    asyncio.run(modes[sys.argv[1]]())
