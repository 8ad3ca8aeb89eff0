"""A producer and a consumer with checkpoints, by the unmodified SDK, that put up with everything.

Lines out: {"acked": [first, last]} when a batch is accepted, {"got": n} for each event that is one of ours,
{"error": text}, {"restart": n} when nothing came for too long, {"stopped": true} when the producer has stopped.
A line on standard input stops the producer; the consumer goes on until it is killed.
"""

import asyncio
import json
import os
import sys
import time
import zlib

from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

EVENT_HUBS = os.environ["EVENTHUBS_CONNECTION_STRING"]
STORAGE = os.environ["STORAGE_CONNECTION_STRING"]
HUB = os.environ["EVENTHUB_NAME"]
BATCH = 10
PAUSE = 0.2
# Longer than a store's expiration of ownership, within which nothing has to come.
STALL = 25

last_got = time.monotonic()


def say(**line) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def body(number: int) -> str:
    text = f"event-{number}"
    return f"{text}-{zlib.crc32(text.encode()):08x}-" + "x" * 100


def number_of(text: str) -> int | None:
    """Strangers send into other event hubs, but some of what they send is ours and was changed on the way."""
    parts = text.split("-")
    if len(parts) == 4 and parts[1].isdigit() and text == body(int(parts[1])):
        return int(parts[1])
    return None


async def produce_once(stop: asyncio.Event, progress: dict) -> None:
    client = EventHubProducerClient.from_connection_string(EVENT_HUBS, eventhub_name=HUB, retry_total=0)
    async with client:
        while not stop.is_set():
            number = progress["next"]
            batch = await client.create_batch()
            for n in range(number, number + BATCH):
                batch.add(EventData(body(n)))
            await client.send_batch(batch)
            say(acked=[number, number + BATCH - 1])
            progress.update(next=number + BATCH, at=time.monotonic())
            await asyncio.sleep(PAUSE)


async def produce(stop: asyncio.Event) -> None:
    progress = {"next": 0}
    while not stop.is_set():
        progress["at"] = time.monotonic()
        sending = asyncio.create_task(produce_once(stop, progress))
        await until_stuck(sending, lambda: progress["at"], 15)
        report("produce", sending)
    say(stopped=True)


async def until_stuck(task: asyncio.Task, last_progress, limit: float) -> None:
    """The SDK waits for some answers without a limit. What hangs is left to itself."""
    while not task.done() and time.monotonic() - last_progress() < limit:
        await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.wait([task], timeout=2)


def report(what: str, task: asyncio.Task) -> None:
    if not task.done():
        say(error=f"{what}: hangs")
    elif not task.cancelled() and task.exception():
        error = task.exception()
        say(error=f"{what}: {type(error).__name__}: {str(error)[:200]}")


async def on_event(context, event) -> None:
    global last_got
    last_got = time.monotonic()
    try:
        number = number_of(event.body_as_str())
    except Exception:  # Not text.
        number = None
    if number is not None:
        say(got=number)
        if number % 20 == 0:
            await context.update_checkpoint(event)


async def on_error(context, error) -> None:
    say(error=f"consume: {type(error).__name__}: {str(error)[:200]}")


async def consume_once() -> None:
    store = BlobCheckpointStore.from_connection_string(STORAGE, "checkpoints")
    client = EventHubConsumerClient.from_connection_string(
        EVENT_HUBS, "$Default", eventhub_name=HUB, checkpoint_store=store,
        load_balancing_interval=1, partition_ownership_expiration_interval=6)
    async with client, store:
        await client.receive(on_event, on_error=on_error, starting_position="-1")


async def consume() -> None:
    global last_got
    restarts = 0
    while True:
        last_got = time.monotonic()
        receiving = asyncio.create_task(consume_once())
        await until_stuck(receiving, lambda: last_got, STALL)
        report("consume", receiving)
        restarts += 1
        say(restart=restarts)


async def main() -> None:
    stop = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    working = asyncio.gather(produce(stop), consume())
    await reader.readline()
    stop.set()
    await working


asyncio.run(main())
