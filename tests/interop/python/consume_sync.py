"""`consume.py` with the synchronous client and the synchronous blob store; the same settings and lines."""

import logging
import os
import signal
import threading

from azure.eventhub import CloseReason, EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore

from lines import print_lifecycle, print_line, required, seconds


class Printer:
    def __init__(self, checkpoint_every: int) -> None:
        self.checkpoint_every = checkpoint_every
        # Events since the last checkpoint and the last of them, by partition; each has a thread of its own.
        self.pending: dict = {}

    def on_event(self, context, event) -> None:
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
            self.checkpoint(context)

    def checkpoint(self, context) -> None:
        _, event = self.pending[context.partition_id]
        context.update_checkpoint(event)
        del self.pending[context.partition_id]
        print_line({"checkpoint": {
            "partition": context.partition_id,
            "sequence_number": event.sequence_number,
        }})

    def on_partition_initialize(self, context) -> None:
        self.pending.pop(context.partition_id, None)
        print_lifecycle("initialize", context)

    def on_partition_close(self, context, reason) -> None:
        if reason == CloseReason.SHUTDOWN and context.partition_id in self.pending:
            self.checkpoint(context)
        print_lifecycle("close", context, reason.name)

    def on_error(self, context, error) -> None:
        print_lifecycle("error", context, f"{type(error).__name__}: {error}")


def main() -> None:
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
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    receiving = threading.Thread(target=client.receive, args=(printer.on_event,), kwargs={
        "on_error": printer.on_error,
        "on_partition_initialize": printer.on_partition_initialize,
        "on_partition_close": printer.on_partition_close,
        "starting_position": "@latest" if os.environ.get("START_POSITION") == "latest" else "-1",
    })
    with client, store:
        receiving.start()
        stopping.wait()
        client.close()
        receiving.join()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("azure.eventhub._pyamqp").setLevel(logging.WARNING)
    logging.getLogger("azure.core").setLevel(logging.WARNING)
    main()
