#![doc = include_str!("../README.md")]

mod condition;
mod convert;
mod failure;
mod management;
mod policy;
mod reader;
mod transport;

pub use transport::AzEventHubsTransport;
