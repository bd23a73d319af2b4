//! The WAN lab: links between sites as the geographic paper found them, on one machine.
//!
//! [`Trace`](trace::Trace) says what a link's bandwidth is over time; [`table1`] has the means that the paper measured;
//! [`Relay`](relay::Relay) carries TCP connections over such links in user space, without privileges (`duramen wan`).
//! `tools/wan/netns.sh` makes the same links of network namespaces, where root has them.
//!
//! What a [`Relay`](relay::Relay) shapes is bytes, not packets: nothing is lost, a connection is made without delay, and TCP's windows are
//! those of the loopback interface. So a flow fills its link whatever the round-trip time, as many flows or a large window do.

pub mod relay;
pub mod table1;
pub mod trace;

mod event_loop;
mod lane;
mod pipe;

#[cfg(test)]
mod lane_tests;
#[cfg(test)]
mod pipe_tests;
#[cfg(test)]
mod relay_tests;
#[cfg(test)]
mod trace_tests;
