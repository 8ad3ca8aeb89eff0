"""The counterpart of `examples/consume.rs` in Python: the same settings, the same lines.

It prints one line more, after each checkpoint that the store has confirmed:
`{"checkpoint": {"partition": …, "sequence_number": …}}`.
"""

import asyncio
import logging
import os
import signal
from contextlib import suppress

from azure.eventhub import CloseReason
from azure.eventhub.aio import EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

from lines import print_lifecycle, print_line, required, seconds


class Printer:
    def __init__(self, checkpoint_every: int) -> None:
        self.checkpoint_every = checkpoint_every
        # Events since the last checkpoint and the last of them, by partition.
        self.pending: dict = {}

    async def on_event(self, context, event) -> None:
        print_line({"event": {
            "owner": "python",
            "partition": context.partition_id,
            "sequence_number": event.sequence_number,
            "offset": event.offset,
            "enqueued_time_ms": round(event.enqueued_time.timestamp() * 1000),
            "body": event.body_as_str(),
        }})
        count, _ = self.pending.get(context.partition_id, (0, None))
        self.pending[context.partition_id] = (count + 1, event)
        if count + 1 >= self.checkpoint_every:
            await self.checkpoint(context)

    async def checkpoint(self, context) -> None:
        _, event = self.pending[context.partition_id]
        await context.update_checkpoint(event)
        del self.pending[context.partition_id]
        print_line({"checkpoint": {
            "partition": context.partition_id,
            "sequence_number": event.sequence_number,
        }})

    async def on_partition_initialize(self, context) -> None:
        # What an earlier term left uncheckpointed is read again.
        self.pending.pop(context.partition_id, None)
        print_lifecycle("initialize", context)

    async def on_partition_close(self, context, reason) -> None:
        if reason == CloseReason.SHUTDOWN and context.partition_id in self.pending:
            await self.checkpoint(context)
        print_lifecycle("close", context, reason.name)

    async def on_error(self, context, error) -> None:
        print_lifecycle("error", context, f"{type(error).__name__}: {error}")


async def main() -> None:
    store = BlobCheckpointStore.from_connection_string(
        required("STORAGE_CONNECTION_STRING"), required("CHECKPOINT_CONTAINER"))
    client = EventHubConsumerClient.from_connection_string(
        required("EVENTHUBS_CONNECTION_STRING"),
        consumer_group=os.environ.get("EVENTHUBS_CONSUMER_GROUP") or "$Default",
        eventhub_name=os.environ.get("EVENTHUB_NAME") or None,
        checkpoint_store=store,
        load_balancing_interval=seconds("LOAD_BALANCING_INTERVAL_MS", 30),
        partition_ownership_expiration_interval=seconds("OWNERSHIP_EXPIRATION_MS", 180),
    )
    printer = Printer(int(os.environ.get("CHECKPOINT_EVERY") or 1))
    latest = os.environ.get("START_POSITION") == "latest"
    async with client, store:
        receiving = asyncio.create_task(client.receive(
            printer.on_event,
            on_error=printer.on_error,
            on_partition_initialize=printer.on_partition_initialize,
            on_partition_close=printer.on_partition_close,
            starting_position="@latest" if latest else "-1",
        ))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, receiving.cancel)
        with suppress(asyncio.CancelledError):
            await receiving


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("azure.eventhub._pyamqp").setLevel(logging.WARNING)
    logging.getLogger("azure.core").setLevel(logging.WARNING)
    asyncio.run(main())
