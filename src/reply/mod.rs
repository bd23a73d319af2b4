//! What a client may rely on when it is answered.
//!
//! The promise: an answer means that the operation was executed, exactly once and in its session's order, and that it
//! outlives any number of simultaneous crashes. No reply leaves a replica before its batch is decided, which means durable
//! at a quorum ([`crate::order`]: an ACCEPT waits for its record), and executed there. In Byzantine mode a client believes what Q = ⌊(n+f)/2⌋+1 replicas say alike (RULES 13), so that later
//! reads see it; in crash mode one reply, because a decision is durable at a majority already (RULES 14). One replica
//! sends a large result whole, the others its digest; who does is a function of session and number that both sides
//! know ([`routing`]). A repeated request is answered from the client table, whole, by every replica.

/// Who sends a result whole.
pub mod routing;
