//! A state that is a string of bytes and no more: what a simulated replica's is while it is sent from one to another.

use crate::service::{Context, QueryReply, RestoreError, Service, Snapshot};
use bytes::Bytes;
use std::io::{self, Read, Write};

/// The bytes.
#[derive(Clone, Default)]
pub struct StateBytes(pub Vec<u8>);

impl Snapshot for StateBytes {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0)
    }

    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Service for StateBytes {
    fn execute(&mut self, _context: &Context, _operation: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn query(&self, _operation: &[u8]) -> QueryReply {
        QueryReply { result: Bytes::new(), version: None }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(self.clone())
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        self.0 = bytes;
        Ok(())
    }
}
