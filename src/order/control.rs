//! [core] The control record: what the log says besides batches and marks, in one piece, so that older records may be recycled
//! (RULES 15).
//!
//! A replay that begins in the middle of a log learns places and marks from the records as they come, and everything else from the
//! first control record. One that begins at the beginning finds in it what it knows already, or the log is not ours.

use super::durable::Report;
use crate::types::*;
use crate::wire::codec::{Reader, Writer};
use crate::wire::error::DecodeError;
use crate::wire::messages::*;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Control {
    /// The view entered last.
    pub view: View,
    /// WRITEs up to here may have left in it.
    pub reserve: Seq,
    /// Votes up to here may be forgotten.
    pub forgotten: Seq,
    /// Of forgotten votes that count as never cast.
    pub era: u64,
    /// The replica has yet to learn.
    pub learner: bool,
    /// The view outside of which it waited.
    pub rejoined: Option<View>,
    /// What was reported when the view was entered.
    pub report: Report,
    /// The mark, and what is prepared above it; batches are found in the log.
    pub prepared: (MarkCertificate, Vec<SlotReport>),
    /// Votes are on disk. Otherwise what is prepared, reported and forgotten is made out anew at each start.
    pub whole: bool,
    /// Together with the records from this one on it says all: with what may go.
    pub below: Lsn,
}

impl Control {
    /// Appends the encoding.
    pub fn write(&self, w: &mut Writer) {
        w.u64(self.below.0).u64(self.reserve.0).u64(self.forgotten.0).u64(self.era);
        w.u8(u8::from(self.learner)).u8(u8::from(self.rejoined.is_some())).u8(u8::from(self.whole));
        w.u64(self.rejoined.unwrap_or_default().0);
        let (mark, slots, unknown) = self.report.clone();
        self.part(mark, slots, unknown).write(w);
        let (mark, slots) = self.prepared.clone();
        self.part(mark, slots, Vec::new()).write(w);
    }

    fn part(&self, mark: MarkCertificate, slots: Vec<SlotReport>, unknown: Vec<Seq>) -> StopData {
        let (sender, signature) = (ReplicaId(0), Signature::NONE);
        StopData { view: self.view, sender, mark, slots, unknown, signature }
    }

    /// Reads it back.
    pub fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let below = Lsn(r.u64()?);
        let (reserve, forgotten, era) = (Seq(r.u64()?), Seq(r.u64()?), r.u64()?);
        let flag = |byte| match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::BadValue),
        };
        let (learner, rejoined, whole) = (flag(r.u8()?)?, flag(r.u8()?)?, flag(r.u8()?)?);
        let outside = View(r.u64()?);
        let (report, prepared) = (StopData::read(r)?, StopData::read(r)?);
        if report.view != prepared.view || !prepared.unknown.is_empty() {
            return Err(DecodeError::BadValue);
        }
        Ok(Self {
            view: report.view,
            reserve,
            forgotten,
            era,
            learner,
            rejoined: rejoined.then_some(outside),
            report: (report.mark, report.slots, report.unknown),
            prepared: (prepared.mark, prepared.slots),
            whole,
            below,
        })
    }

    /// The encoding: equal controls have equal ones.
    pub fn bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        self.write(&mut w);
        w.out
    }

    /// The most that one takes in a group of `n` with windows of `window` places.
    pub fn bytes_max(n: u32, window: u64) -> usize {
        let certificate = 64 + 72 * n as usize;
        2 * (window as usize * (certificate + 8) + certificate + 256)
    }
}
