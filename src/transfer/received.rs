//! A state that was received, ready to be taken over.

use super::image::{Image, PIECE_BYTES, Part, is_page};
use super::leecher::Target;
use super::staging::Staging;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::service::{RestoreError, Service};
use crate::types::*;
use std::io::{self, Read};
use std::sync::Arc;

/// Chunks on disk, and what was here before.
pub struct Received {
    /// What it is.
    pub target: Target,
    /// What came.
    pub staging: Arc<Staging>,
    /// What was here.
    pub own: Option<Arc<Image>>,
    /// Of the cluster.
    pub algorithm: DigestAlgorithm,
}

impl Received {
    /// A page, compared with its digest once more: it may have been on disk for long.
    pub(crate) fn page(&self, part: Part, index: u64) -> Result<Option<Vec<u8>>, RestoreError> {
        let chunk = self.target.manifest.chunk_of(part, index);
        let expected = self.target.digest(chunk);
        if expected == Digest::ZERO {
            return Ok(None);
        }
        let right = |bytes: &Vec<u8>| is_page(self.algorithm, index, bytes, &expected);
        if let Some(bytes) = self.staging.read(chunk)?.filter(right) {
            return Ok(Some(bytes));
        }
        let mut bytes = Vec::new();
        let here = self.own.as_ref().is_some_and(|own| own.part(part).page(index, &mut bytes));
        match here && right(&bytes) {
            true => Ok(Some(bytes)),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("chunk {chunk} of the received state is not what it was"),
            )
            .into()),
        }
    }

    /// Puts the state into `service` and gives the client table. On error the service is as it was.
    pub fn restore(
        &self,
        service: &mut dyn Service,
        limits: ClientTableLimits,
    ) -> Result<ClientTable, RestoreError> {
        let mut table = ClientTable::new(limits);
        table.restore(&mut self.pieces(Part::Table))?;
        let state = self.target.manifest.part(Part::State);
        if self.target.manifest.paged {
            let mut source = |index| self.page(Part::State, index);
            service.restore_pages(&state.header, state.pages, &mut source)?;
        } else {
            service.restore(&mut self.pieces(Part::State))?;
        }
        Ok(table)
    }

    fn pieces(&self, part: Part) -> Pieces<'_> {
        Pieces { of: self, part, next: 0, piece: Vec::new(), at: 0 }
    }
}

/// One string of bytes, piece by piece.
struct Pieces<'a> {
    of: &'a Received,
    part: Part,
    next: u64,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            if self.next == self.of.target.manifest.part(self.part).pages {
                return Ok(0);
            }
            let piece = self.of.page(self.part, self.next).map_err(io::Error::other)?.unwrap_or_default();
            debug_assert!(piece.len() <= PIECE_BYTES);
            (self.piece, self.at, self.next) = (piece, 0, self.next + 1);
        }
        let n = out.len().min(self.piece.len() - self.at);
        out[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
