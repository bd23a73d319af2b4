//! What a tuple space can be asked, and what it answers.
//!
//! # Operations
//! Little-endian; `name` = length `u8`, UTF-8 (1 to 255 bytes); tuples and templates as `tuple_space_fields` has them.
//! ```text
//!  1 create  name
//!  2 delete  name
//!  3 list    limit u32, name before the first, or length 0
//!  4 out     name, the byte 1, tuple
//!  5 rdp     name, template
//!  6 inp     name, template
//!  7 rdall   name, limit u32, id before the first u64, template
//!  8 cas     name, template, the byte 1, tuple
//!  9 rd      name, milliseconds to wait u32, template
//! 10 in      name, milliseconds to wait u32, template
//! ```
//! # Replies
//! ```text
//!  0 Ok          create, delete, out and cas are done
//!  1 Tuple       tuple; to rd and in perhaps much later
//!  2 NoMatch     rdp, inp: no tuple matches
//!  3 Present     cas: a tuple that matches; nothing was put
//!  4 Tuples      id of the last one if there may be more, else 0, u64; then each tuple
//!  5 Spaces      more u8 (1: there may be more behind the last), then each: name, tuples u64, waiting u64
//!  6 NoSpace     no space of this name
//!  7 SpaceExists create: there is one of this name
//!  8 Malformed   why, UTF-8
//!  9 TooLarge    a tuple or template above its bound
//! 10 NotARead    a write, asked as a query
//! 11 TimedOut    rd, in: no tuple matched in that time
//! 12 TooManyWait rd, in: as many wait as may
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::tuple_space_fields::{Cursor, Field, Pattern, RawTemplate, RawTuple, put_template, put_tuple};

/// The longest tuple or template, bytes as it is sent. So the reply that hands a tuple over is always kept for a repeated request
/// ([`ClientTableLimits::reply_bytes_max`](crate::execute::client_table::ClientTableLimits::reply_bytes_max)): no tuple that was taken
/// is lost with a connection.
pub const TUPLE_BYTES_MAX: usize = (64 << 10) - 64;
/// The longest name of a space, bytes.
pub const SPACE_NAME_BYTES_MAX: usize = 255;
/// A reply to `rdall` or `list` has at most this many bytes of tuples or names, unless its first alone has more.
pub const TUPLES_BYTES_MAX: usize = 1 << 20;

/// The longest wait of one operation, milliseconds of agreed time. Who waits longer asks again: the last request of a client that is gone
/// takes a tuple for it for so long at most.
pub const WAIT_MS_MAX: u32 = 60 * 60 * 1000;
/// A template that is waited for has at most so many bytes.
pub const WAITING_TEMPLATE_BYTES_MAX: usize = 16 << 10;
/// Operations that wait, of one client key.
pub const WAITING_PER_CLIENT_MAX: usize = 128;
/// Operations that wait, of all.
pub const WAITING_MAX: usize = 16 << 10;

pub(super) mod code {
    pub const CREATE: u8 = 1;
    pub const DELETE: u8 = 2;
    pub const LIST: u8 = 3;
    pub const OUT: u8 = 4;
    pub const RDP: u8 = 5;
    pub const INP: u8 = 6;
    pub const RDALL: u8 = 7;
    pub const CAS: u8 = 8;
    pub const RD: u8 = 9;
    pub const IN: u8 = 10;
}

pub(super) mod status {
    pub const OK: u8 = 0;
    /// Also stands before a tuple wherever it is kept: a reply shares the kept bytes.
    pub const TUPLE: u8 = super::super::key_value_page::VALUE_MARK;
    pub const NO_MATCH: u8 = 2;
    pub const PRESENT: u8 = 3;
    pub const TUPLES: u8 = 4;
    pub const SPACES: u8 = 5;
    pub const NO_SPACE: u8 = 6;
    pub const SPACE_EXISTS: u8 = 7;
    pub const MALFORMED: u8 = 8;
    pub const TOO_LARGE: u8 = 9;
    pub const NOT_A_READ: u8 = 10;
    pub const TIMED_OUT: u8 = 11;
    pub const TOO_MANY_WAIT: u8 = 12;
}

/// What can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TupleOperation<'a> {
    /// Makes an empty space.
    Create {
        /// Its name.
        space: &'a str,
    },
    /// Removes a space and all its tuples.
    Delete {
        /// Its name.
        space: &'a str,
    },
    /// The spaces in the order of their names.
    List {
        /// Behind this name; empty: from the first.
        after: &'a str,
        /// At most so many (and [`TUPLES_BYTES_MAX`]).
        limit: u32,
    },
    /// Puts a tuple in.
    Out {
        /// Where.
        space: &'a str,
        /// What.
        tuple: &'a [Field],
    },
    /// Reads the oldest tuple that matches, if there is one.
    Rdp {
        /// Where.
        space: &'a str,
        /// What to look for.
        template: &'a [Pattern],
    },
    /// Takes the oldest tuple that matches out, if there is one.
    Inp {
        /// Where.
        space: &'a str,
        /// What to look for.
        template: &'a [Pattern],
    },
    /// Reads all tuples that match, oldest first.
    RdAll {
        /// Where.
        space: &'a str,
        /// What to look for.
        template: &'a [Pattern],
        /// At most so many (and [`TUPLES_BYTES_MAX`]).
        limit: u32,
        /// Behind this one, as [`TupleReply::Tuples`] named it; 0: from the oldest.
        after: u64,
    },
    /// Puts a tuple in if none matches.
    Cas {
        /// Where.
        space: &'a str,
        /// What must not be there.
        template: &'a [Pattern],
        /// What to put.
        tuple: &'a [Field],
    },
    /// Reads the oldest tuple that matches; if there is none, the first that is put.
    Rd {
        /// Where.
        space: &'a str,
        /// What to look for.
        template: &'a [Pattern],
        /// For how long, milliseconds: [`WAIT_MS_MAX`] at most.
        wait_ms: u32,
    },
    /// Takes the oldest tuple that matches; if there is none, the first that is put and that no older [`TupleOperation::In`] takes.
    In {
        /// Where.
        space: &'a str,
        /// What to look for.
        template: &'a [Pattern],
        /// For how long, milliseconds: [`WAIT_MS_MAX`] at most.
        wait_ms: u32,
    },
}

/// What a space holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpaceEntry {
    /// Its name.
    pub name: String,
    /// Tuples in it.
    pub tuples: u64,
    /// Operations that wait for tuples.
    pub waiting: u64,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TupleReply {
    /// Done.
    Ok,
    /// The tuple read or taken.
    Tuple(Vec<Field>),
    /// No tuple matches.
    NoMatch,
    /// A cas found this one; nothing was put.
    Present(Vec<Field>),
    /// The result of an [`TupleOperation::RdAll`].
    Tuples {
        /// Oldest first.
        tuples: Vec<Vec<Field>>,
        /// The limit or [`TUPLES_BYTES_MAX`] was reached: where to go on behind.
        more_after: Option<u64>,
    },
    /// The result of a [`TupleOperation::List`].
    Spaces {
        /// In the order of their names.
        spaces: Vec<SpaceEntry>,
        /// There may be more behind the last.
        more: bool,
    },
    /// There is no space of this name.
    NoSpace,
    /// There is a space of this name already.
    SpaceExists,
    /// Not an operation, and why.
    Malformed(String),
    /// A tuple or template above [`TUPLE_BYTES_MAX`].
    TooLarge,
    /// A write, asked as a query.
    NotARead,
    /// No tuple matched in the time given.
    TimedOut,
    /// [`WAITING_MAX`] operations wait, or [`WAITING_PER_CLIENT_MAX`] of this client.
    TooManyWait,
}

/// These bytes are not a reply of a tuple space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a reply of the tuple space")]
pub struct NotATupleReply;

impl TupleOperation<'_> {
    /// The operation's bytes. Bounds are left to the service, which says what is too much; of a name above them the length is.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let mut head = |code: u8, name: &str| {
            out.put_u8(code);
            put_name(&mut out, name);
        };
        match *self {
            Self::Create { space } => head(code::CREATE, space),
            Self::Delete { space } => head(code::DELETE, space),
            Self::List { after, limit } => {
                out.put_u8(code::LIST);
                out.put_u32_le(limit);
                put_name(&mut out, after);
            }
            Self::Out { space, tuple } => {
                head(code::OUT, space);
                put_marked(&mut out, tuple);
            }
            Self::Rdp { space, template } => {
                head(code::RDP, space);
                put_template(&mut out, template);
            }
            Self::Inp { space, template } => {
                head(code::INP, space);
                put_template(&mut out, template);
            }
            Self::RdAll { space, template, limit, after } => {
                head(code::RDALL, space);
                out.put_u32_le(limit);
                out.put_u64_le(after);
                put_template(&mut out, template);
            }
            Self::Cas { space, template, tuple } => {
                head(code::CAS, space);
                put_template(&mut out, template);
                put_marked(&mut out, tuple);
            }
            Self::Rd { space, template, wait_ms } => {
                head(code::RD, space);
                out.put_u32_le(wait_ms);
                put_template(&mut out, template);
            }
            Self::In { space, template, wait_ms } => {
                head(code::IN, space);
                out.put_u32_le(wait_ms);
                put_template(&mut out, template);
            }
        }
        out.freeze()
    }
}

/// A name above the bound is cut to nothing: an empty name is refused.
fn put_name(out: &mut BytesMut, name: &str) {
    let name = if name.len() <= SPACE_NAME_BYTES_MAX { name } else { "" };
    out.put_u8(name.len() as u8);
    out.put_slice(name.as_bytes());
}

fn put_marked(out: &mut BytesMut, tuple: &[Field]) {
    out.put_u8(status::TUPLE);
    put_tuple(out, tuple);
}

impl TupleReply {
    /// Reads a reply.
    pub fn decode(reply: &[u8]) -> Result<Self, NotATupleReply> {
        Self::read(Cursor(reply)).map_err(|_| NotATupleReply)
    }

    fn read(mut input: Cursor<'_>) -> Result<Self, Refused> {
        let decoded = match input.u8()? {
            status::OK => Self::Ok,
            status::TUPLE => Self::Tuple(input.tuple()?.decode()),
            status::NO_MATCH => Self::NoMatch,
            status::PRESENT => Self::Present(input.tuple()?.decode()),
            status::TUPLES => {
                let more_after = Some(input.u64()?).filter(|id| *id > 0);
                let mut tuples = Vec::new();
                while !input.0.is_empty() {
                    tuples.push(input.tuple()?.decode());
                }
                Self::Tuples { tuples, more_after }
            }
            status::SPACES => {
                let more = input.u8()? == 1;
                let mut spaces = Vec::new();
                while !input.0.is_empty() {
                    let name = input.name()?.to_owned();
                    spaces.push(SpaceEntry { name, tuples: input.u64()?, waiting: input.u64()? });
                }
                Self::Spaces { spaces, more }
            }
            status::NO_SPACE => Self::NoSpace,
            status::SPACE_EXISTS => Self::SpaceExists,
            status::MALFORMED => {
                let why = String::from_utf8_lossy(input.0).into_owned();
                return Ok(Self::Malformed(why));
            }
            status::TOO_LARGE => Self::TooLarge,
            status::NOT_A_READ => Self::NotARead,
            status::TIMED_OUT => Self::TimedOut,
            status::TOO_MANY_WAIT => Self::TooManyWait,
            _ => return Err(Refused::Malformed("no such reply")),
        };
        input.end().map(|()| decoded)
    }
}

/// Why an operation is turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Malformed(&'static str),
    TooLarge,
    NoSpace,
    SpaceExists,
    NotARead,
    TooManyWait,
}

impl Refused {
    pub fn reply(self) -> Bytes {
        Bytes::from_static(match self {
            Refused::Malformed(why) => {
                return Bytes::from([&[status::MALFORMED], why.as_bytes()].concat());
            }
            Refused::TooLarge => &[status::TOO_LARGE],
            Refused::NoSpace => &[status::NO_SPACE],
            Refused::SpaceExists => &[status::SPACE_EXISTS],
            Refused::NotARead => &[status::NOT_A_READ],
            Refused::TooManyWait => &[status::TOO_MANY_WAIT],
        })
    }
}

impl<'a> Cursor<'a> {
    /// A space's name.
    pub fn name(&mut self) -> Result<&'a str, Refused> {
        match self.name_or_none()? {
            "" => Err(Refused::Malformed("a space's name has 1 to 255 bytes")),
            name => Ok(name),
        }
    }

    pub fn name_or_none(&mut self) -> Result<&'a str, Refused> {
        let length = self.u8()?;
        let name = self.take(length.into())?;
        std::str::from_utf8(name).map_err(|_| Refused::Malformed("a space's name that is not UTF-8"))
    }

    /// A template within its bound.
    pub fn bounded_template(&mut self) -> Result<RawTemplate<'a>, Refused> {
        let template = self.template()?;
        if template.bytes.len() <= TUPLE_BYTES_MAX { Ok(template) } else { Err(Refused::TooLarge) }
    }

    /// A tuple within its bound, and the same bytes with the mark in front, as they are kept: the last part of an operation.
    pub fn last_tuple(&mut self) -> Result<(RawTuple<'a>, &'a [u8]), Refused> {
        let marked = self.0;
        if self.u8()? != status::TUPLE {
            return Err(Refused::Malformed("a tuple stands behind a byte 1"));
        }
        let tuple = self.tuple()?;
        self.end()?;
        if tuple.bytes.len() <= TUPLE_BYTES_MAX { Ok((tuple, marked)) } else { Err(Refused::TooLarge) }
    }
}
