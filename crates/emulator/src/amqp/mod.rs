//! The Event Hubs side: AMQP 1.0 as the SDKs of all languages speak it.
//!
//! One task owns a connection ([`driver`]); what it does is decided without IO ([`connection`],
//! [`session`], [`attach`]). Other tasks reach a connection by signals only.

mod address;
mod attach;
mod cbs;
pub(crate) mod codec;
mod connection;
mod consumer;
mod delivery;
mod disturbed;
mod driver;
pub(crate) mod errors;
pub(crate) mod fault_kinds;
pub(crate) mod fault_rules;
#[cfg(feature = "unstable-fuzz")]
pub(crate) mod fuzz;
mod incomplete;
mod late;
pub(crate) mod limits;
mod link;
mod management;
mod output;
mod publisher;
mod request;
mod sas;
mod selector;
mod server;
mod service;
mod session;
mod settlement;
mod signal;
mod tls;
mod transport;
mod websocket;

pub(crate) use driver::Pace;
pub use fault_kinds::{BadFrame, ReplyFault, ResetStage, TlsFault};
pub(crate) use sas::Keys;
pub(crate) use server::AmqpServer;
pub(crate) use service::{Service, WebSocketOrder};
pub(crate) use signal::{EventLinks, Signal};
pub(crate) use tls::Identity;
pub(crate) use transport::Transport;
