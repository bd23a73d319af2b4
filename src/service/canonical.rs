//! Tools for canonical bytes: hash them as they are written, check them as they are read.

use std::io::{self, Read, Write};

use crate::types::{Digest, DigestAlgorithm};

/// Why bytes are not a state of this service.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The input could not be read.
    #[error("reading the state failed: {0}")]
    Read(#[from] io::Error),
    /// The input ended too early.
    #[error("the state ends at byte {at}, in the middle of its {field}")]
    Truncated {
        /// Bytes that were there.
        at: u64,
        /// What was being read.
        field: &'static str,
    },
    /// The bytes are not what this service writes.
    #[error("the state is malformed before byte {at}: {reason}")]
    Malformed {
        /// Bytes read so far.
        at: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The service does not keep its state in pages.
    #[error("the service does not keep its state in pages")]
    NotPaged,
}

/// Reads canonical bytes (little-endian, lengths first) and knows where it stands.
pub struct CanonicalReader<'a> {
    input: &'a mut dyn Read,
    at: u64,
}

impl<'a> CanonicalReader<'a> {
    /// Reads `input` from where it stands.
    pub fn new(input: &'a mut dyn Read) -> Self {
        Self { input, at: 0 }
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8], field: &'static str) -> Result<(), RestoreError> {
        let mut filled = 0;
        while filled < out.len() {
            match self.input.read(&mut out[filled..]) {
                Ok(0) => return Err(RestoreError::Truncated { at: self.at, field }),
                Ok(n) => {
                    filled += n;
                    self.at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RestoreError> {
        let mut out = [0; N];
        self.fill(&mut out, field)?;
        Ok(out)
    }

    /// Checks that what begins here is of this format; `reason`: why not.
    pub fn magic(&mut self, expected: [u8; 8], reason: &'static str) -> Result<(), RestoreError> {
        let magic: [u8; 8] = self.array("header")?;
        self.ensure(magic == expected, reason)
    }

    /// A `u32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, RestoreError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// A `u64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, RestoreError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Appends `length` bytes to `out`, which grows only as bytes arrive.
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        length: usize,
        field: &'static str,
    ) -> Result<(), RestoreError> {
        const STEP_BYTES: usize = 64 << 10;
        let end = out.len() + length;
        while out.len() < end {
            let start = out.len();
            out.resize(end.min(start + STEP_BYTES), 0);
            self.fill(&mut out[start..], field)?;
        }
        Ok(())
    }

    /// An error at this place.
    pub fn malformed(&self, reason: &'static str) -> RestoreError {
        RestoreError::Malformed { at: self.at, reason }
    }

    /// `Ok` if `condition` holds, else an error at this place.
    pub fn ensure(&self, condition: bool, reason: &'static str) -> Result<(), RestoreError> {
        if condition { Ok(()) } else { Err(self.malformed(reason)) }
    }

    /// Checks that nothing follows.
    pub fn end(&mut self) -> Result<(), RestoreError> {
        match self.fill(&mut [0], "end") {
            Err(RestoreError::Truncated { .. }) => Ok(()),
            Err(e) => Err(e),
            Ok(()) => Err(self.malformed("bytes follow the end of the state")),
        }
    }
}

/// Hashes what is written to it.
pub struct DigestWriter(Hasher);

enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Ring(Box<ring::digest::Context>),
}

impl DigestWriter {
    /// A hash of nothing yet.
    pub fn new(algorithm: DigestAlgorithm) -> Self {
        let ring = |hash| Hasher::Ring(Box::new(ring::digest::Context::new(hash)));
        Self(match algorithm {
            DigestAlgorithm::Blake3 => Hasher::Blake3(Box::default()),
            DigestAlgorithm::Sha256 => ring(&ring::digest::SHA256),
            DigestAlgorithm::Sha512 => ring(&ring::digest::SHA512),
        })
    }

    /// The same digest as [`DigestAlgorithm::hash`] of all that was written.
    pub fn finish(self) -> Digest {
        match self.0 {
            Hasher::Blake3(hasher) => Digest(*hasher.finalize().as_bytes()),
            Hasher::Ring(context) => {
                let mut out = [0; 32];
                out.copy_from_slice(&context.finish().as_ref()[..32]);
                Digest(out)
            }
        }
    }
}

impl Write for DigestWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Hasher::Ring(context) => context.update(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
