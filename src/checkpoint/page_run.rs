//! The pages in one file's body, in order: all of them, or the changed ones; and those of a whole chain.

use std::io::{self, Read};

use super::file::Head;
use super::opened::BodyReader;
use crate::service::RestoreError;

/// What is left of them.
pub struct PageRun<'a> {
    body: &'a mut BodyReader,
    /// Behind the next one.
    pages: u64,
    bytes: u64,
    /// Only changed pages: each comes with its index.
    sparse: bool,
    /// The index of the next page.
    next: Option<u64>,
}

impl<'a> PageRun<'a> {
    /// Of a body that has been read up to its pages.
    pub fn new(body: &'a mut BodyReader, head: &Head) -> Result<Self, RestoreError> {
        let bytes = head.body_bytes - head.table_bytes - head.header_bytes;
        let (pages, sparse) = match head.previous {
            Some(previous) => (previous.changed, true),
            None => (head.pages.unwrap_or(0), false),
        };
        let mut run = Self { body, pages, bytes, sparse, next: None };
        run.advance(0)?;
        Ok(run)
    }

    /// Whether the next page is the one at `index`.
    pub fn has(&self, index: u64) -> bool {
        self.next == Some(index)
    }

    /// The next page; `None` if it is free.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, RestoreError> {
        let length = self.length()?;
        // Not more than the file has: its length was held against its head.
        let mut page = vec![0; length as usize];
        self.body.read_exact(&mut page)?;
        self.passed()?;
        Ok((length > 0).then_some(page))
    }

    /// Passes over the next page.
    pub fn skip(&mut self) -> Result<(), RestoreError> {
        let length = self.length()?;
        if io::copy(&mut Read::take(&mut *self.body, length), &mut io::sink())? != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.passed()
    }

    /// Errors: pages are left over.
    pub fn end(&self) -> Result<(), RestoreError> {
        match (self.next, self.bytes) {
            (None, 0) => Ok(()),
            _ => Err(malformed("pages that nothing asks for")),
        }
    }

    fn length(&mut self) -> Result<u64, RestoreError> {
        let length = u64::from(u32::from_le_bytes(self.array()?));
        self.bytes = self.bytes.checked_sub(length).ok_or_else(|| malformed("a page beyond the end"))?;
        Ok(length)
    }

    fn passed(&mut self) -> Result<(), RestoreError> {
        self.advance(self.next.map_or(0, |index| index + 1))
    }

    /// Looks for the next page, at `from` or above.
    fn advance(&mut self, from: u64) -> Result<(), RestoreError> {
        self.next = match (self.pages, self.sparse) {
            (0, _) => None,
            (_, false) => Some(from),
            (_, true) => Some(u64::from_le_bytes(self.array()?)),
        };
        if self.next.is_some_and(|index| index < from) {
            return Err(malformed("pages out of order"));
        }
        self.pages = self.pages.saturating_sub(1);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        self.bytes = self.bytes.checked_sub(N as u64).ok_or_else(|| malformed("a page beyond the end"))?;
        let mut out = [0; N];
        self.body.read_exact(&mut out)?;
        Ok(out)
    }
}

/// The pages of a checkpoint, from the bodies of its files.
pub struct PageRuns<'a>(Vec<PageRun<'a>>);

impl<'a> PageRuns<'a> {
    /// Of the run in each file, the one with all pages first.
    pub fn new(runs: Vec<PageRun<'a>>) -> Self {
        Self(runs)
    }

    /// The page at `index`, which comes after the one asked for before: as the last file says that has it; one that none has is free.
    pub fn take(&mut self, index: u64) -> Result<Option<Vec<u8>>, RestoreError> {
        let mut having = self.0.iter_mut().filter(|run| run.has(index)).rev();
        let page = having.next().map_or(Ok(None), PageRun::take)?;
        having.try_for_each(PageRun::skip)?;
        Ok(page)
    }

    /// Errors: pages are left over.
    pub fn end(&self) -> Result<(), RestoreError> {
        self.0.iter().try_for_each(PageRun::end)
    }
}

fn malformed(reason: &'static str) -> RestoreError {
    RestoreError::Malformed { at: 0, reason }
}
