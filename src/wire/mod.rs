//! Decode and authenticate: frames ↔ messages.
//!
//! A frame's payload is one message: fixed little-endian fields, then at most one large part that is shared and never
//! copied ([`messages`]). What is ordered has its own layout ([`batch`]). *Authentic* means: the channel proves the
//! sender of a frame; whatever is relayed or stored carries signatures; [`auth`] alone says so, in a type.

/// Requests, groups, batches and their digests.
pub mod batch;

/// Fields in and out.
pub mod codec;

/// One struct per message.
pub mod messages;

/// Signatures, MACs, certificates, validity of batches.
pub mod auth;

/// One variant per deviation.
pub mod error;

/// The real keys at work.
pub mod scheme;

#[cfg(test)]
mod wire_tests;
