// What the programs of this directory share: JSON lines on stdout, settings from the environment, and the SDK.

import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

// A line goes out whole and at once, so that whoever kills this process sees all it did.
export function printLine(line) {
  let rest = Buffer.from(`${JSON.stringify(line)}\n`);
  while (rest.length > 0) {
    rest = rest.subarray(write(rest));
  }
}

function write(bytes) {
  try {
    return writeSync(1, bytes);
  } catch (error) {
    // The reader is slow; a pipe of node does not block.
    if (error.code === "EAGAIN") return 0;
    throw error;
  }
}

export function required(name) {
  const value = process.env[name];
  if (!value) fail(`the environment variable ${name} is not set`);
  return value;
}

export function fail(message) {
  console.error(message);
  process.exit(1);
}

// The packages are installed elsewhere, not beside this file.
const load = createRequire(join(required("EHP_JS"), "package.json"));

export const eventHubs = load("@azure/event-hubs");

export const checkpointStore = load("@azure/eventhubs-checkpointstore-blob");

// `@azure/storage-blob` of that name: Azurite does not know what the newest one asks for.
export const storageBlob = load(process.env.STORAGE_BLOB_PACKAGE || "@azure/storage-blob");
