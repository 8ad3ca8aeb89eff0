//! Local Azure Event Hubs and Blob emulator.

mod blob;
