//! The executed state at one place, frozen: to be written while the service goes on, and read back.

use std::io::{self, Read, Write};

use super::file::{BodyWriter, CheckpointError};
use super::increments::Extent;
use super::opened::Opened;
use super::page_run::{PageRun, PageRuns};
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
    /// How many of them are there, if not all.
    pub changed: Option<u64>,
    /// Bytes of the client table.
    pub table_bytes: u64,
    /// Bytes of what stands beside the pages.
    pub header_bytes: u64,
}

impl Frozen {
    /// About how many bytes will be written.
    pub fn bytes(&self, extent: &Extent) -> u64 {
        self.table.bytes()
            + match extent {
                Extent::All => self.state.bytes(),
                Extent::Changed { bytes, .. } => *bytes,
            }
    }

    /// Writes the body.
    pub fn write_to(&self, extent: &Extent, out: &mut BodyWriter<'_>) -> io::Result<Layout> {
        Snapshot::write_to(&self.table, out)?;
        let table_bytes = out.bytes();
        let Some(pages) = self.state.pages() else {
            self.state.write_to(out)?;
            return Ok(Layout { pages: None, changed: None, table_bytes, header_bytes: 0 });
        };
        let header = pages.header();
        out.write_all(&header)?;
        let mut page = Vec::new();
        let mut write = |index: u64, out: &mut BodyWriter<'_>| {
            page.clear();
            pages.page(index, &mut page);
            out.write_all(&u32::try_from(page.len()).map_err(io::Error::other)?.to_le_bytes())?;
            out.write_all(&page)
        };
        let changed = match extent {
            Extent::All => {
                (0..pages.page_count()).try_for_each(|index| write(index, out))?;
                None
            }
            Extent::Changed { pages, .. } => {
                for index in pages {
                    out.write_all(&index.to_le_bytes())?;
                    write(*index, out)?;
                }
                Some(pages.len() as u64)
            }
        };
        let header_bytes = header.len() as u64;
        Ok(Layout { pages: Some(pages.page_count()), changed, table_bytes, header_bytes })
    }
}

/// The executor as a checkpoint left it. Errors: damage; a state that is not this service's, which is then unchanged.
pub fn thaw(
    opened: &Opened,
    service: &mut Box<dyn Service>,
    limits: ClientTableLimits,
) -> Result<ClientTable, CheckpointError> {
    let head = &opened.head;
    opened.bodies(|bodies| {
        let mut table = ClientTable::new(limits);
        let (newest, older) = bodies.split_last_mut().expect("a checkpoint has a file");
        table.restore(&mut newest.take(head.table_bytes))?;
        let mut header = vec![0; usize::try_from(head.header_bytes).map_err(io::Error::other)?];
        newest.read_exact(&mut header)?;
        let Some(pages) = head.pages else {
            service.restore(&mut newest.take(head.body_bytes - head.table_bytes - head.header_bytes))?;
            return Ok(table);
        };
        let mut runs = Vec::new();
        for (body, head) in older.iter_mut().zip(opened.heads()) {
            io::copy(&mut body.take(head.table_bytes + head.header_bytes), &mut io::sink())?;
            runs.push(PageRun::new(body, head)?);
        }
        runs.push(PageRun::new(newest, head)?);
        let mut runs = PageRuns::new(runs);
        service.restore_pages(&header, pages, &mut |index| runs.take(index))?;
        runs.end()?;
        Ok(table)
    })
}

/// An executor that goes on from a checkpoint.
pub fn resume(opened: &Opened, service: Box<dyn Service>, table: ClientTable, hasher: Hasher) -> Executor {
    let head = &opened.head;
    Executor::resumed(service, table, hasher, head.seq, head.time, head.replies)
}
