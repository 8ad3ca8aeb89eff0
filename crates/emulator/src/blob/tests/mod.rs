//! The endpoint over real sockets, spoken to with plain HTTP.

mod client;
mod contract;
mod robustness;
