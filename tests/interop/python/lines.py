"""What the programs of this directory share: JSON lines on stdout, settings from the environment."""

import json
import os
import sys


def print_line(line: dict) -> None:
    """A line goes out whole and at once, so that whoever kills this process sees all it did."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        sys.exit(f"the environment variable {name} is not set")
    return value
