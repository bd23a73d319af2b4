//! The executed state at one place, frozen: to be written while the service goes on, and read back.

use std::io::{self, Read, Write};

use super::file::{BodyWriter, CheckpointError, Opened};
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::service::{Service, Snapshot};
use crate::types::*;
use crate::wire::batch::Hasher;

/// State, client table and position.
pub struct Frozen {
    /// Executed up to here.
    pub seq: Seq,
    /// The agreed time.
    pub time: WallTime,
    /// The reply history.
    pub replies: Digest,
    /// All sessions.
    pub table: ClientTable,
    /// The service's.
    pub state: Box<dyn Snapshot>,
}

/// How a body is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Pages of the state, if it has any.
    pub pages: Option<u64>,
    /// Bytes of the client table.
    pub table_bytes: u64,
    /// Bytes of what stands beside the pages.
    pub header_bytes: u64,
}

impl Frozen {
    /// About how many bytes will be written.
    pub fn bytes(&self) -> u64 {
        self.table.bytes() + self.state.bytes()
    }

    /// Writes the body.
    pub fn write_to(&self, out: &mut BodyWriter<'_>) -> io::Result<Layout> {
        Snapshot::write_to(&self.table, out)?;
        let table_bytes = out.bytes();
        let Some(pages) = self.state.pages() else {
            self.state.write_to(out)?;
            return Ok(Layout { pages: None, table_bytes, header_bytes: 0 });
        };
        let header = pages.header();
        out.write_all(&header)?;
        let mut page = Vec::new();
        for index in 0..pages.page_count() {
            page.clear();
            pages.page(index, &mut page);
            out.write_all(&u32::try_from(page.len()).map_err(io::Error::other)?.to_le_bytes())?;
            out.write_all(&page)?;
        }
        Ok(Layout { pages: Some(pages.page_count()), table_bytes, header_bytes: header.len() as u64 })
    }
}

/// The executor as a checkpoint left it. Errors: damage; a state that is not this service's, which is then unchanged.
pub fn thaw(
    opened: &Opened,
    service: &mut Box<dyn Service>,
    limits: ClientTableLimits,
) -> Result<ClientTable, CheckpointError> {
    let head = &opened.head;
    opened.body(|body| {
        let mut table = ClientTable::new(limits);
        table.restore(&mut body.take(head.table_bytes))?;
        let mut header = vec![0; usize::try_from(head.header_bytes).map_err(io::Error::other)?];
        body.read_exact(&mut header)?;
        let mut left = head.body_bytes - head.table_bytes - head.header_bytes;
        let Some(pages) = head.pages else {
            service.restore(&mut body.take(left))?;
            return Ok(table);
        };
        let mut source = |_| {
            let mut length = [0; 4];
            body.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            left = left.checked_sub(4 + length).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            if length == 0 {
                return Ok(None);
            }
            let mut page = Vec::new();
            body.take(length).read_to_end(&mut page)?;
            match page.len() as u64 == length {
                true => Ok(Some(page)),
                false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            }
        };
        service.restore_pages(&header, pages, &mut source)?;
        Ok(table)
    })
}

/// An executor that goes on from a checkpoint.
pub fn resume(opened: &Opened, service: Box<dyn Service>, table: ClientTable, hasher: Hasher) -> Executor {
    let head = &opened.head;
    Executor::resumed(service, table, hasher, head.seq, head.time, head.replies)
}
