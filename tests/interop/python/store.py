"""Reads and writes ownership and checkpoint records with the unmodified Python store.

One command from the arguments; the result is one line of JSON.
"""

import argparse
import asyncio
import json
from datetime import datetime, timedelta, timezone

from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore
from azure.eventhub.extensions.checkpointstoreblobaio._vendor.storage.blob import generate_container_sas

from lines import print_line, required


async def create_container(store: BlobCheckpointStore, _) -> None:
    # The store has no such function, users make the container beforehand; the client inside it has.
    await store._container_client.create_container()
    print_line({"created": True})


async def put(store: BlobCheckpointStore, args: argparse.Namespace) -> None:
    """Puts records with any metadata, as broken or forgotten writers would."""
    group = f"{args.namespace}/{args.hub}/{args.group}".lower()
    for name, metadata in json.loads(args.records).items():
        await store._container_client.upload_blob(f"{group}/{name}", b"", metadata=metadata)
    print_line({"put": True})


async def container_url(store: BlobCheckpointStore, _) -> None:
    # Nor has it this; the storage client that it brings along has.
    container = store._container_client
    signature = generate_container_sas(
        container.account_name, container.container_name, account_key=container.credential.account_key,
        permission="racwdl", expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    print_line({"url": f"{container.url}?{signature}"})


async def list_ownership(store: BlobCheckpointStore, args: argparse.Namespace) -> None:
    records = await store.list_ownership(args.namespace, args.hub, args.group)
    print_line({"ownership": sorted(records, key=lambda record: record["partition_id"])})


async def claim(store: BlobCheckpointStore, args: argparse.Namespace) -> None:
    """Claims as the SDK's processor does: the listed record, or a new one if there is none."""
    records = await store.list_ownership(args.namespace, args.hub, args.group)
    record = next(
        (record for record in records if record["partition_id"] == args.partition),
        {
            "fully_qualified_namespace": args.namespace,
            "eventhub_name": args.hub,
            "consumer_group": args.group,
            "partition_id": args.partition,
        },
    )
    if args.etag:
        record["etag"] = args.etag
    record["owner_id"] = args.owner
    print_line({"claimed": list(await store.claim_ownership([record]))})


async def list_checkpoints(store: BlobCheckpointStore, args: argparse.Namespace) -> None:
    records = await store.list_checkpoints(args.namespace, args.hub, args.group)
    print_line({"checkpoints": sorted(records, key=lambda record: record["partition_id"])})


async def update_checkpoint(store: BlobCheckpointStore, args: argparse.Namespace) -> None:
    await store.update_checkpoint({
        "fully_qualified_namespace": args.namespace,
        "eventhub_name": args.hub,
        "consumer_group": args.group,
        "partition_id": args.partition,
        "offset": args.offset,
        "sequence_number": args.sequence_number,
    })
    print_line({"updated": True})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("create-container").set_defaults(run=create_container)
    commands.add_parser("container-url").set_defaults(run=container_url)
    for name, run in [
        ("put", put),
        ("list-ownership", list_ownership),
        ("claim", claim),
        ("list-checkpoints", list_checkpoints),
        ("update-checkpoint", update_checkpoint),
    ]:
        command = commands.add_parser(name)
        command.add_argument("namespace")
        command.add_argument("hub")
        command.add_argument("group")
        command.set_defaults(run=run)
        if run is put:
            command.add_argument("records", help='{"ownership/0": {"ownerid": "a"}}')
        if run is claim:
            command.add_argument("partition")
            command.add_argument("owner", help="empty: give it back")
            command.add_argument("--etag", help="instead of the listed one")
        if run is update_checkpoint:
            command.add_argument("partition")
            command.add_argument("offset")
            command.add_argument("sequence_number", type=int)
    return parser.parse_args()


async def main() -> None:
    args = parse()
    store = BlobCheckpointStore.from_connection_string(
        required("STORAGE_CONNECTION_STRING"), required("CHECKPOINT_CONTAINER"))
    async with store:
        await args.run(store, args)


if __name__ == "__main__":
    asyncio.run(main())
