//! The HTTP rules of the proxy: message boundaries, fields, targets and bodies. Pure, or generic over the stream: nothing here
//! opens a socket, reads a snapshot or knows which side a request is on.

pub(crate) mod activity;
pub(crate) mod body;
pub(crate) mod broken;
pub(crate) mod content;
pub(crate) mod cross_site;
pub(crate) mod error;
pub(crate) mod expect;
pub mod fields;
pub mod frames;
pub mod framing;
pub(crate) mod interim;
pub(crate) mod named_host;
pub(crate) mod progress;
pub mod refusal;
pub(crate) mod response_content;
pub mod server_connection;
pub(crate) mod taken;
pub(crate) mod target;
pub(crate) mod upgrade;
