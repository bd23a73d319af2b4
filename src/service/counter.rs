use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::service::{CanonicalReader, Context, QueryReply, RestoreError, Service, Snapshot};
use crate::types::{Digest, DigestAlgorithm, Seq};

/// A counter. Operations: 8 bytes, a little-endian number to add; none, a read. The reply is the value then, 8 bytes; to other
/// operations it is empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counter {
    value: u64,
    /// Batch of the last addition.
    version: Seq,
}

impl Counter {
    fn reply(&self) -> Bytes {
        Bytes::copy_from_slice(&self.value.to_le_bytes())
    }
}

impl Service for Counter {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        if let Ok(number) = operation.try_into() {
            self.value = self.value.wrapping_add(u64::from_le_bytes(number));
            self.version = context.seq;
        } else if !operation.is_empty() {
            return Bytes::new();
        }
        self.reply()
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        let result = if operation.is_empty() { self.reply() } else { Bytes::new() };
        QueryReply { result, version: Some(self.version) }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(*self)
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(input);
        let restored = Counter { value: input.u64("value")?, version: Seq(input.u64("version")?) };
        input.end()?;
        *self = restored;
        Ok(())
    }

    fn digest(&self, algorithm: DigestAlgorithm) -> Digest {
        algorithm.hash(&[&self.value.to_le_bytes(), &self.version.0.to_le_bytes()])
    }
}

impl Snapshot for Counter {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.value.to_le_bytes())?;
        out.write_all(&self.version.0.to_le_bytes())
    }

    fn bytes(&self) -> u64 {
        16
    }
}
