//! The endpoint over real sockets, spoken to with plain HTTP.

mod azurite;
mod client;
mod contract;
mod matrix;
mod robustness;
mod rust_sdk;
