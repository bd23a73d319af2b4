//! The service of the papers' micro-benchmarks ("0/0", "4/0", …): requests and replies of any size that mean nothing.

use std::io::{self, Read, Write};

use bytes::Bytes;

use super::{CanonicalReader, Context, QueryReply, RestoreError, Service, Snapshot};

/// The longest reply, bytes; a longer one asked for is cut to this.
pub const NULL_REPLY_BYTES_MAX: u32 = 8 << 20;

/// Replies up to this long are parts of one constant.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Counts operations and answers with zeros. Operation: the reply's length as a little-endian `u32`, then any bytes; shorter than
/// 4 bytes, the reply has the length given to [`NullService::new`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct NullService {
    /// Part of the configuration, not of the state.
    reply_bytes: u32,
    executed: u64,
    /// All operations' lengths, xor-ed.
    lengths: u64,
}

impl NullService {
    /// Answers operations shorter than 4 bytes with `reply_bytes` zeros. All replicas must be given the same.
    pub fn new(reply_bytes: u32) -> Self {
        Self { reply_bytes, ..Self::default() }
    }

    /// An operation of `request_bytes` (at least 4) that gets a reply of `reply_bytes`.
    pub fn operation(request_bytes: usize, reply_bytes: u32) -> Bytes {
        let mut operation = vec![0; request_bytes.max(4)];
        operation[..4].copy_from_slice(&reply_bytes.to_le_bytes());
        operation.into()
    }

    /// How many operations were executed.
    pub fn executed(&self) -> u64 {
        self.executed
    }

    fn reply(&self, operation: &[u8]) -> Bytes {
        let asked = operation.first_chunk().map_or(self.reply_bytes, |length| u32::from_le_bytes(*length));
        let length = asked.min(NULL_REPLY_BYTES_MAX) as usize;
        match ZEROS.get(..length) {
            Some(zeros) => Bytes::from_static(zeros),
            None => vec![0; length].into(),
        }
    }
}

impl Service for NullService {
    fn execute(&mut self, _: &Context, operation: &[u8]) -> Bytes {
        self.executed = self.executed.wrapping_add(1);
        self.lengths ^= operation.len() as u64;
        self.reply(operation)
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        QueryReply { result: self.reply(operation), version: None }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(*self)
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(input);
        let (executed, lengths) = (input.u64("count")?, input.u64("lengths")?);
        input.end()?;
        (self.executed, self.lengths) = (executed, lengths);
        Ok(())
    }
}

impl Snapshot for NullService {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.executed.to_le_bytes())?;
        out.write_all(&self.lengths.to_le_bytes())
    }

    fn bytes(&self) -> u64 {
        16
    }
}
