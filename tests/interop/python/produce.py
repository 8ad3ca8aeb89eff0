"""Sends events with the unmodified Python SDK and prints what was acknowledged:
`{"sent": {"partition": …, "key": …, "bodies": […]}}`.
"""

import argparse
import os
import signal
import time
import uuid
from datetime import datetime, timezone
from decimal import Decimal

from azure.eventhub import EventData, EventHubProducerClient
from azure.eventhub.amqp import AmqpAnnotatedMessage

from lines import print_line, required


def acknowledged(bodies: list[str], partition: str | None = None, key: str | None = None) -> None:
    print_line({"sent": {"partition": partition, "key": key, "bodies": bodies}})


def steady(producer: EventHubProducerClient, args: argparse.Namespace) -> None:
    """Batches to all partitions in turn, at a steady rate, until the count is reached or SIGTERM comes."""
    stopped = False

    def stop(*_) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    partitions = sorted(producer.get_partition_ids(), key=int)
    started, sent, turn = time.monotonic(), 0, 0
    while not stopped and (args.count == 0 or sent < args.count):
        size = args.batch if args.count == 0 else min(args.batch, args.count - sent)
        partition = partitions[turn % len(partitions)]
        bodies = [f"{args.prefix}-{number}" for number in range(sent, sent + size)]
        producer.send_batch([EventData(body) for body in bodies], partition_id=partition)
        acknowledged(bodies, partition=partition)
        sent, turn = sent + size, turn + 1
        time.sleep(max(0.0, started + sent / args.rate - time.monotonic()))


def keyed(producer: EventHubProducerClient, args: argparse.Namespace) -> None:
    """Batches with partition keys."""
    for key in (f"key-{number}" for number in range(args.keys)):
        bodies = [f"{key}/{number}" for number in range(args.count)]
        producer.send_batch([EventData(body) for body in bodies], partition_key=key)
        acknowledged(bodies, key=key)


def typed(type_name: str, value) -> dict:
    """The SDK's way to say which AMQP type a value has."""
    return {"TYPE": type_name, "VALUE": value}


PROPERTIES = {
    "null": None,
    "true": True,
    "false": False,
    "ubyte": typed("UBYTE", 255),
    "ushort": typed("USHORT", 65535),
    "uint": typed("UINT", 4294967295),
    "ulong": typed("ULONG", 18446744073709551615),
    "byte": typed("BYTE", -128),
    "short": typed("SHORT", -32768),
    "int": -2147483648,
    "long": typed("LONG", -9223372036854775808),
    "float": typed("FLOAT", 1.5),
    "double": -2.25,
    "decimal128": Decimal("1"),
    "timestamp": datetime(2024, 2, 29, 12, 0, 0, 123000, tzinfo=timezone.utc),
    "uuid": uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
    "binary": b"\x00\xff",
    "string": "žluťoučký 🦀",
    "empty string": "",
    "symbol": typed("SYMBOL", "sym"),
}


def kinds(producer: EventHubProducerClient, args: argparse.Namespace) -> None:
    """One event of every kind, each with a property `label`, all to one partition and in this order."""

    def event(label: str, body, properties: dict | None = None) -> EventData:
        data = EventData(body)
        data.properties = {"label": label} | (properties or {})
        return data

    def message(label: str, **parts) -> AmqpAnnotatedMessage:
        return AmqpAnnotatedMessage(application_properties={"label": label}, **parts)

    described = event("described", "described")
    described.message_id = "message 1"
    described.correlation_id = "correlation 1"
    described.content_type = "application/json"
    every_property = {
        "message_id": uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
        "user_id": b"user",
        "to": "to",
        "subject": "subject",
        "reply_to": "reply to",
        "correlation_id": "correlation 2",
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "absolute_expiry_time": 1709208000123,
        "creation_time": 1709208000000,
        "group_id": "group",
        "group_sequence": 7,
        "reply_to_group_id": "reply group",
    }
    singles = [
        event("text", "text"),
        event("unicode", "žluťoučký 🦀 日本"),
        event("empty", b""),
        event("binary", bytes(range(256))),
        event("200 kB", bytes(number % 251 for number in range(200_000))),
        event("properties", "properties", PROPERTIES),
        described,
        message("every message property", data_body=b"m", properties=every_property),
        message("binary id", data_body=b"m", properties={"message_id": b"\x01\x02"}),
        message("annotated", data_body=b"m", annotations={"x-opt-custom": "mine", "x-opt-number": 5}),
        message("several data sections", data_body=[b"one", b"two"]),
        message("value", value_body={"key": ["list", 1, True, None]}),
        message("sequence", sequence_body=[["a", 1], ["b", 2]]),
    ]
    for single in singles:
        producer.send_event(single, partition_id=args.partition)
    batch = producer.create_batch(partition_id=args.partition)
    for number in range(10):
        batch.add(event(f"batch {number}", f"batch {number}", {"number": number}))
    for batched in singles[:8]:
        batch.add(batched)
    producer.send_batch(batch)
    acknowledged(["kinds"], partition=args.partition)


def one(producer: EventHubProducerClient, args: argparse.Namespace) -> None:
    """A single event."""
    producer.send_event(EventData(args.body), partition_id=args.partition)
    acknowledged([args.body], partition=args.partition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(required=True)
    mode = modes.add_parser("steady")
    mode.add_argument("--rate", type=float, default=100, help="events per second")
    mode.add_argument("--count", type=int, default=0, help="events in all; 0: until SIGTERM")
    mode.add_argument("--batch", type=int, default=5)
    mode.add_argument("--prefix", default="e")
    mode.set_defaults(run=steady)
    mode = modes.add_parser("keyed")
    mode.add_argument("--keys", type=int, default=8)
    mode.add_argument("--count", type=int, default=10, help="events for each key")
    mode.set_defaults(run=keyed)
    mode = modes.add_parser("kinds")
    mode.add_argument("--partition")
    mode.set_defaults(run=kinds)
    mode = modes.add_parser("one")
    mode.add_argument("--partition")
    mode.add_argument("--body")
    mode.set_defaults(run=one)
    args = parser.parse_args()
    producer = EventHubProducerClient.from_connection_string(
        required("EVENTHUBS_CONNECTION_STRING"), eventhub_name=os.environ.get("EVENTHUB_NAME") or None)
    with producer:
        args.run(producer, args)


if __name__ == "__main__":
    main()
