//! One socket: its link security, the frame being received, the frames waiting to be sent.

use super::framing::{Assembler, Frame};
use super::hello::{GREETING_BYTES_MAX, Refusal};
use super::outbound::{Full, GATHER_MAX, Queue};
use super::stats::Flow;
use super::{Closed, ConnectionId, From, Peer};
use crate::identity::PublicKey;
use crate::types::ReplicaId;
use bytes::Bytes;
use mio::net::TcpStream;
use rustls::AlertDescription;
use socket2::SockRef;
use std::io::{self, BufRead, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

/// Encrypted bytes kept for a socket that takes no more; also the plaintext fed to TLS at a time. Replicas are few and send much.
const TLS_REPLICA_BYTES: usize = 128 * 1024;
const TLS_OTHERS_BYTES: usize = 32 * 1024;

/// What counts as much, when something was sent in bulk.
const ROOM_BYTES: usize = 256 * 1024;

/// What is known of the other side.
#[derive(Debug)]
pub(super) enum Phase {
    /// TCP is connecting to this replica.
    Connecting(ReplicaId),
    /// TLS handshake and greeting; the replica if we dialed, `None` if we were dialed.
    Greeting(Option<ReplicaId>),
    /// The peer is known.
    Up(From),
    /// Our last words are on their way; what comes in is thrown away.
    Draining,
}

enum Session {
    Plain,
    Tls(Box<rustls::Connection>),
}

pub(super) struct Connection {
    pub id: ConnectionId,
    pub phase: Phase,
    pub address: String,
    pub flow: Arc<Flow>,
    /// Readiness: set by poll, cleared when the socket would block.
    pub readable: bool,
    pub writable: bool,
    /// The peer has shut its side: read on until the end even after a short read.
    pub read_closed: bool,
    /// In the event loop's lists.
    pub listed_read: bool,
    /// It is not read for a while.
    pub rests: bool,
    pub listed_write: bool,
    /// Bytes read before the peer was known.
    pub greeting_bytes: usize,
    pub socket: TcpStream,
    session: Session,
    assembler: Assembler,
    queue: Queue,
    tls_bytes: usize,
    /// Queued since the owner was last told of room.
    bulk: usize,
    shut: bool,
}

/// How far a flush came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flushed {
    /// Nothing waits.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The quota is used up.
    Quota,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        socket: TcpStream,
        tls: Option<rustls::Connection>,
        phase: Phase,
        address: String,
    ) -> Self {
        let session = match tls {
            None => Session::Plain,
            Some(mut tls) => {
                tls.set_buffer_limit(Some(TLS_OTHERS_BYTES));
                Session::Tls(Box::new(tls))
            }
        };
        Self {
            id,
            phase,
            address,
            flow: Arc::default(),
            readable: false,
            writable: false,
            read_closed: false,
            listed_read: false,
            rests: false,
            listed_write: false,
            greeting_bytes: 0,
            socket,
            session,
            assembler: Assembler::new(GREETING_BYTES_MAX),
            queue: Queue::new(usize::MAX),
            tls_bytes: TLS_OTHERS_BYTES,
            bulk: 0,
            shut: false,
        }
    }

    /// TCP_NODELAY, and an end to peers that vanished without a word.
    pub(super) fn set_options(socket: &TcpStream, dead_after: Duration) -> io::Result<()> {
        let socket = socket2::SockRef::from(socket);
        let third = (dead_after / 3).max(Duration::from_secs(1));
        socket.set_tcp_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(third).with_interval(third).with_retries(2);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(dead_after))
    }

    /// The peer is known: it may send more, and so may we.
    pub(super) fn established(&mut self, from: From, payload_bytes_max: u32, queue_bytes_max: usize) {
        self.phase = Phase::Up(from);
        if let (Session::Tls(tls), Peer::Replica(_)) = (&mut self.session, from.peer) {
            self.tls_bytes = TLS_REPLICA_BYTES;
            tls.set_buffer_limit(Some(TLS_REPLICA_BYTES));
        }
        self.assembler.set_payload_bytes_max(payload_bytes_max);
        self.queue.set_bytes_max(queue_bytes_max);
    }

    /// The key TLS proved the other side to own; `None` in plain transport.
    pub(super) fn peer_key(&self) -> Option<PublicKey> {
        match &self.session {
            Session::Plain => None,
            Session::Tls(tls) => super::tls::peer_key(tls),
        }
    }

    pub(super) fn push(&mut self, frame: Frame) -> Result<(), Full> {
        self.bulk += frame.wire_bytes();
        let pushed = self.queue.push(frame);
        self.flow.queue_bytes.set(self.queue.bytes() as u64);
        pushed
    }

    /// Whether much was queued since this was last true, and little of it is left.
    pub(super) fn has_room(&mut self) -> bool {
        let room = self.bulk >= ROOM_BYTES && self.queue.bytes() < ROOM_BYTES;
        if room {
            self.bulk = 0;
        }
        room
    }

    pub(super) fn queue_bytes(&self) -> usize {
        self.queue.bytes()
    }

    pub(super) fn wants_write(&self) -> bool {
        match &self.session {
            Session::Plain => !self.queue.is_empty(),
            Session::Tls(tls) => tls.wants_write() || (!self.queue.is_empty() && !tls.is_handshaking()),
        }
    }

    /// Reads once from the socket: into the frame being received where it has much room, and into `scratch`.
    ///
    /// Returns the bytes read and how many of them lie in `scratch`; `None` when the socket would block.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> Result<Option<(usize, usize)>, Closed> {
        let room = match self.session {
            Session::Plain => self.assembler.room(),
            Session::Tls(_) => None,
        };
        let direct = room.as_ref().map_or(0, |room| room.len());
        let asked = direct + scratch.len();
        let read = match room {
            Some(room) => {
                (&self.socket).read_vectored(&mut [IoSliceMut::new(room), IoSliceMut::new(scratch)])
            }
            None => (&self.socket).read(scratch),
        };
        let n = match read {
            Ok(0) => return Err(Closed::ByPeer),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(None);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(Some((0, 0))),
            Err(e) => return Err(Closed::Io(e.kind())),
        };
        // A short read has emptied the socket (epoll(7)): the next byte raises a new edge. Not so the end of the stream, which
        // may have raised its edge already.
        if n < asked && !self.read_closed {
            self.readable = false;
        }
        self.flow.bytes_in.add(n as u64);
        if direct > 0 {
            self.assembler.filled(n.min(direct));
        }
        Ok(Some((n, n.saturating_sub(direct))))
    }

    /// The next frame in what was received; takes from `input` what it needs, `None` when that is used up.
    pub(super) fn next_frame(&mut self, input: &mut &[u8]) -> Result<Option<(u16, Bytes)>, Closed> {
        let tls = match &mut self.session {
            Session::Plain => return self.assembler.next(input).map_err(Closed::Frame),
            Session::Tls(tls) => tls,
        };
        loop {
            let mut reader = tls.reader();
            match reader.fill_buf() {
                Ok([]) => return Err(Closed::ByPeer),
                Ok(chunk) => {
                    let mut rest = chunk;
                    let frame = self.assembler.next(&mut rest);
                    let used = chunk.len() - rest.len();
                    reader.consume(used);
                    if let Some(frame) = frame.map_err(Closed::Frame)? {
                        return Ok(Some(frame));
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    if matches!(tls.read_tls(input), Ok(0) | Err(_)) {
                        return Err(Closed::Tls("too many bytes for one TLS message".into()));
                    }
                    if let Err(e) = tls.process_new_packets() {
                        return Err(tls_failure(e, tls.is_handshaking()));
                    }
                }
                Err(_) => return Err(Closed::ByPeer),
            }
        }
    }

    /// Writes what waits, until the socket would block or about `quota` bytes are gone.
    pub(super) fn flush(&mut self, quota: usize) -> io::Result<Flushed> {
        let mut left = quota;
        while self.wants_write() {
            if !self.writable {
                return Ok(Flushed::Blocked);
            }
            if left == 0 {
                return Ok(Flushed::Quota);
            }
            left = left.saturating_sub(self.write_once()?);
        }
        if matches!(self.phase, Phase::Draining) && self.writable && !self.shut {
            self.shut = true;
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(Flushed::All)
    }

    fn write_once(&mut self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); GATHER_MAX];
        let written = match &mut self.session {
            Session::Plain => {
                let n = self.queue.gather(&mut slices, usize::MAX);
                let asked: usize = slices[..n].iter().map(|slice| slice.len()).sum();
                let written = Quiet(&self.socket).write_vectored(&slices[..n]);
                // A short write has filled the socket: the next room raises a new edge.
                self.writable &= written.as_ref().map_or(true, |written| *written == asked);
                written.inspect(|written| self.flow.frames_out.add(self.queue.consume(*written)))
            }
            Session::Tls(tls) => {
                // Frames stay whole and countable until the socket has taken what was encrypted before.
                if !tls.wants_write() && !tls.is_handshaking() {
                    let n = self.queue.gather(&mut slices, self.tls_bytes);
                    let taken = tls.writer().write_vectored(&slices[..n])?;
                    self.flow.frames_out.add(self.queue.consume(taken));
                }
                tls.write_tls(&mut Quiet(&self.socket))
            }
        };
        self.flow.queue_bytes.set(self.queue.bytes() as u64);
        match written {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                self.flow.bytes_out.add(n as u64);
                Ok(n)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// From now on only `last` is sent, and nothing received is looked at.
    pub(super) fn drain(&mut self, last: Option<Frame>) {
        self.phase = Phase::Draining;
        self.queue = Queue::new(usize::MAX);
        if let Some(last) = last {
            // An empty queue takes any frame.
            let _ = self.queue.push(last);
        }
    }

    /// Says goodbye where TLS has a word for it; the bytes go out with the next flush.
    pub(super) fn say_goodbye(&mut self) {
        if let Session::Tls(tls) = &mut self.session {
            tls.send_close_notify();
        }
    }
}

/// A socket to write to. If the other side is gone that is an error, and no SIGPIPE: Rust programs ignore that signal, a C program that
/// this library is a part of would die of it. (`write_vectored` of the socket itself is `writev`, which cannot leave it out.)
struct Quiet<'a>(&'a TcpStream);

impl Write for Quiet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(self.0).send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        SockRef::from(self.0).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a TLS error says about the configuration of the two sides.
fn tls_failure(e: rustls::Error, handshaking: bool) -> Closed {
    let refused = |refusal, ours, text: &str| Closed::Refused { refusal, text: text.to_owned(), ours };
    match e {
        rustls::Error::InvalidCertificate(_) if handshaking => refused(
            Refusal::UnknownKey,
            true,
            "it shows another key than the one configured for it: wrong address, other cluster or changed key",
        ),
        rustls::Error::AlertReceived(AlertDescription::AccessDenied) => {
            refused(Refusal::UnknownKey, false, "it expects another key at this address")
        }
        rustls::Error::InvalidMessage(_) if handshaking => {
            refused(Refusal::WrongTransport, true, "it does not speak TLS; is its transport plain?")
        }
        e => Closed::Tls(e.to_string()),
    }
}

/// Whether the first bytes received in plain transport are a TLS record: a handshake or an alert.
pub(super) fn looks_like_tls(first: &[u8]) -> bool {
    matches!(first, [0x15 | 0x16, 0x03, ..])
}
