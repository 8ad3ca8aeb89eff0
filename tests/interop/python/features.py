"""Every feature of the unmodified synchronous Python SDK, one after the other, as JSON lines.

What each line has to hold stands in `../strangers/features.rs`, which prepares the event hubs, gives the settings, and
compares everything with what the emulator has.
"""

import os
import sys
import threading
from datetime import datetime, timezone

from azure.eventhub import EventData, EventHubConsumerClient, EventHubProducerClient

from lines import print_line, required

CONNECTION_STRING = required("EVENTHUBS_CONNECTION_STRING")
HUB = required("EVENTHUB_NAME")
WAIT = 20


def body(text: str) -> bytes:
    """Not text for anybody who looks."""
    return b"\x00\xff" + text.encode()


def events(label: str, count: int) -> list[EventData]:
    return [EventData(body(f"{label} {number}")) for number in range(count)]


def milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def show(event: EventData) -> dict:
    key = event.partition_key
    return {
        "sequence_number": event.sequence_number,
        "offset": event.offset,
        "enqueued_time_ms": milliseconds(event.enqueued_time),
        "partition_key": key.decode() if isinstance(key, bytes) else key,
        "body": b"".join(event.body).hex(),
        "n": event.properties.get(b"n", event.properties.get("n")),
    }


def positions() -> dict:
    """The arguments of `receive` for each kind of position; the one in the middle is given by the settings."""
    offset = required("MIDDLE_OFFSET")
    sequence_number = int(required("MIDDLE_SEQUENCE_NUMBER"))
    time = datetime.fromtimestamp(int(required("MIDDLE_TIME_MS")) / 1000, timezone.utc)
    return {
        "earliest": ("-1", False),
        "after_offset": (offset, False),
        "at_offset": (offset, True),
        "after_sequence_number": (sequence_number, False),
        "at_sequence_number": (sequence_number, True),
        "after_time": (time, False),
        "at_time": (time, True),
    }


class Receiver:
    """A receiver of one partition in a thread of its own."""

    def __init__(self, partition: str, **options) -> None:
        self.seen: list[dict] = []
        self.errors: list[str] = []
        self.last_enqueued: dict | None = None
        self.changed = threading.Condition()
        self.client = EventHubConsumerClient.from_connection_string(
            CONNECTION_STRING, consumer_group="$Default", eventhub_name=HUB)
        self.thread = threading.Thread(target=self.client.receive, args=(self.on_event,), kwargs={
            "partition_id": partition, "on_error": self.on_error, **options})
        self.thread.start()

    def on_event(self, context, event) -> None:
        with self.changed:
            self.seen.append(show(event))
            self.last_enqueued = context.last_enqueued_event_properties
            self.changed.notify_all()

    def on_error(self, _, error) -> None:
        with self.changed:
            self.errors.append(f"{type(error).__name__}: {error}")
            self.changed.notify_all()

    def wait_for(self, what: str, is_there) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: is_there(self), WAIT):
                sys.exit(f"no {what}: {self.seen}, {self.errors}")

    def wait_for_number(self, number: int) -> None:
        self.wait_for(f"event {number}", lambda it: it.seen and it.seen[-1]["sequence_number"] >= number)

    def close(self) -> None:
        self.client.close()
        self.thread.join()


def tell_properties() -> None:
    client = EventHubProducerClient.from_connection_string(CONNECTION_STRING, eventhub_name=HUB)
    with client:
        hub = client.get_eventhub_properties()
        print_line({"hub": {
            "name": hub["eventhub_name"],
            "partition_ids": hub["partition_ids"],
            "created_ms": milliseconds(hub["created_at"]),
        }})
        for partition in ["0", "1"]:
            print_line({"partition": partition_line(client.get_partition_properties(partition))})


def partition_line(properties: dict) -> dict:
    return {
        "hub": properties["eventhub_name"],
        "id": properties["id"],
        "begin": properties["beginning_sequence_number"],
        "last": properties["last_enqueued_sequence_number"],
        "last_offset": properties["last_enqueued_offset"],
        "last_time_ms": milliseconds(properties["last_enqueued_time_utc"]),
        "is_empty": properties["is_empty"],
    }


def send() -> None:
    hub = required("SEND_EVENTHUB_NAME")
    with EventHubProducerClient.from_connection_string(CONNECTION_STRING, eventhub_name=hub) as producer:
        producer.send_event(events("single", 1)[0])
        print_line({"sent": "single"})
        batch = producer.create_batch()
        for event in events("batch", 100):
            batch.add(event)
        producer.send_batch(batch)
        print_line({"sent": "batch"})
        producer.send_batch(events("key", 5), partition_key="7")
        print_line({"sent": "key"})
        producer.send_batch(events("partition", 5), partition_id="2")
        print_line({"sent": "partition"})
    failed = []
    buffered = EventHubProducerClient.from_connection_string(
        CONNECTION_STRING, eventhub_name=hub, buffered_mode=True,
        on_success=lambda *_: None, on_error=lambda *error: failed.append(error))
    with buffered:
        for event in events("buffered", 50):
            buffered.send_event(event)
        for event in events("buffered key", 5):
            buffered.send_event(event, partition_key="7")
        buffered.flush()
    if failed:
        sys.exit(f"not sent: {failed}")
    print_line({"sent": "buffered"})


def receive() -> None:
    last = int(required("LAST_SEQUENCE_NUMBER"))
    for name, (position, is_inclusive) in positions().items():
        receiver = Receiver("1", starting_position=position, starting_position_inclusive=is_inclusive)
        receiver.wait_for_number(last)
        receiver.close()
        print_line({"received": {"position": name, "events": receiver.seen}})


def last_enqueued() -> None:
    receiver = Receiver("1", starting_position="-1", track_last_enqueued_event_properties=True)
    receiver.wait_for_number(int(required("LAST_SEQUENCE_NUMBER")))
    receiver.close()
    told = receiver.last_enqueued
    print_line({"last_enqueued": {
        "sequence_number": told["sequence_number"],
        "offset": told["offset"],
        "time_ms": milliseconds(told["enqueued_time"]),
    }})


def latest() -> None:
    """The event comes once this receiver is there."""
    receiver = Receiver("1", starting_position="@latest")
    receiver.wait_for("event", lambda it: it.seen)
    receiver.close()
    print_line({"received": {"position": "latest", "events": receiver.seen}})


def owner_levels() -> None:
    """Each event comes once the receiver of that level is there."""
    first = Receiver("3", starting_position="-1", owner_level=1)
    first.wait_for_number(0)
    second = Receiver("3", starting_position="-1", owner_level=2)
    first.wait_for("error", lambda it: it.errors)
    second.wait_for_number(1)
    print_line({"taken": first.errors[0]})
    first.close()
    third = Receiver("3", starting_position="-1", owner_level=1)
    third.wait_for("error", lambda it: it.errors)
    print_line({"refused": third.errors[0], "seen": third.seen})
    third.close()
    second.wait_for_number(2)
    print_line({"kept": second.errors})
    second.close()


if __name__ == "__main__":
    if sys.argv[1] == "features":
        tell_properties()
        send()
        receive()
        last_enqueued()
    elif sys.argv[1] == "latest":
        latest()
    elif sys.argv[1] == "owner-levels":
        owner_levels()
    else:
        sys.exit(f"usage: {os.path.basename(sys.argv[0])} features|latest|owner-levels")
