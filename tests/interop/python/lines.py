"""What the programs of this directory share: JSON lines on stdout, settings from the environment."""

import json
import os
import sys
import threading

printing = threading.Lock()


def print_line(line: dict) -> None:
    """A line goes out whole and at once, so that whoever kills this process sees all it did."""
    with printing:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"the environment variable {name} is not set")
    return value


def print_lifecycle(what: str, context, reason: str | None = None) -> None:
    partition = context.partition_id if context else None
    print_line({"lifecycle": what, "partition": partition, "reason": reason})


def seconds(name: str, default: float) -> float:
    milliseconds = os.environ.get(name)
    return int(milliseconds) / 1000 if milliseconds else default
