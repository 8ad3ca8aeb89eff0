// Lists ownership and checkpoint records with the unmodified JavaScript store. The result is one line of JSON.

import { checkpointStore, printLine, required, storageBlob } from "./lines.mjs";

const [namespace, hub, group] = process.argv.slice(2);
const container = new storageBlob.ContainerClient(
  required("STORAGE_CONNECTION_STRING"),
  required("CHECKPOINT_CONTAINER"),
);
const store = new checkpointStore.BlobCheckpointStore(container);
printLine({
  ownership: await store.listOwnership(namespace, hub, group),
  checkpoints: await store.listCheckpoints(namespace, hub, group),
});
