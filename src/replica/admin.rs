//! The thread `duramen-admin`: `/metrics`, `/healthz` and `/readyz` over HTTP, for scrapers and supervisors on this machine.
//!
//! GET only, one request per connection, a small loop of its own: nothing that a client does here reaches the replica's stages.
//! Slow, silent and oversized requests are cut; at most [`CONNECTIONS_MAX`] at a time.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections at a time; a further one is closed at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long a connection may last.
const TIME_MAX: Duration = Duration::from_secs(5);
/// How long nothing is accepted after the system refused, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

/// What a path is answered: status line's code and words, content type, body.
pub struct Answer {
    /// 200, 404, 503.
    pub code: u16,
    /// MIME.
    pub content_type: &'static str,
    /// All of it.
    pub body: String,
}

/// Answers paths.
pub type Pages = Box<dyn Fn(&str) -> Answer + Send>;

/// Takes the next connection.
pub(super) type Accept = Box<dyn FnMut(&TcpListener) -> io::Result<TcpStream> + Send>;

/// The running thread; dropping it ends it.
pub struct Admin {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    until: Instant,
}

impl Admin {
    /// Listens at `address`; port 0 lets the system choose. Errors: the address cannot be used.
    pub fn start(address: SocketAddr, pages: Pages) -> io::Result<Self> {
        Self::accepting(address, pages, Box::new(|listener| listener.accept().map(|(stream, _)| stream)))
    }

    /// As [`Admin::start`], with another way to accept.
    pub(super) fn accepting(address: SocketAddr, pages: Pages, accept: Accept) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("--metrics {address}: {e}")))?;
        let address = listener.local_addr()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::Builder::new().name("duramen-admin".into()).spawn(move || {
            let connections = BTreeMap::new();
            Server { poll, listener, accept, again: None, pages, connections, next: 2 }.run(&stop)
        })?;
        Ok(Self { address, stopping, waker, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    accept: Accept,
    /// When to accept again after the system refused: no event tells of that.
    again: Option<Instant>,
    pages: Pages,
    connections: BTreeMap<usize, Connection>,
    next: usize,
}

impl Server {
    fn run(mut self, stopping: &AtomicBool) {
        let mut events = Events::with_capacity(2 * CONNECTIONS_MAX);
        while !stopping.load(Ordering::Acquire) {
            let first = self.connections.values().map(|c| c.until).chain(self.again).min();
            let wait = first.map(|until| until.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() != ErrorKind::Interrupted => {
                    ::log::error!("the metrics port ended: {e}");
                    return;
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    STOP => {}
                    Token(id) => self.go_on(id),
                }
            }
            let now = Instant::now();
            self.connections.retain(|_, c| c.until > now);
            if self.again.is_some_and(|again| again <= now) {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        let refused_before = self.again.take().is_some();
        loop {
            let mut stream = match (self.accept)(&self.listener) {
                Ok(stream) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => {
                    if !refused_before {
                        ::log::warn!("the metrics port cannot accept, and tries again: {e}");
                    }
                    self.again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            let id = self.next;
            self.next += 1;
            let both = Interest::READABLE | Interest::WRITABLE;
            if self.connections.len() >= CONNECTIONS_MAX
                || self.poll.registry().register(&mut stream, Token(id), both).is_err()
            {
                continue;
            }
            let until = Instant::now() + TIME_MAX;
            let connection = Connection { stream, head: Vec::new(), answer: Vec::new(), sent: 0, until };
            self.connections.insert(id, connection);
            self.go_on(id);
        }
    }

    /// Reads and writes until the socket would block; forgets the connection when it is done.
    fn go_on(&mut self, id: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.go_on(&self.pages) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            _ => {
                self.connections.remove(&id);
            }
        }
    }
}

impl Connection {
    fn go_on(&mut self, pages: &Pages) -> io::Result<()> {
        let mut part = [0; 2048];
        while self.answer.is_empty() {
            match self.stream.read(&mut part) {
                Ok(0) => return Ok(()),
                Ok(n) => self.head.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if let Some(answer) = respond(&self.head, pages) {
                self.answer = answer;
            }
        }
        while self.sent < self.answer.len() {
            match self.stream.write(&self.answer[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.stream.shutdown(std::net::Shutdown::Write)
    }
}

/// The bytes to answer a head with; `None`: it is not complete yet.
fn respond(head: &[u8], pages: &Pages) -> Option<Vec<u8>> {
    let refuse = |code, why: &str| Answer { code, content_type: "text/plain", body: format!("{why}\n") };
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let answer = match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
            (Some("GET"), Some(path)) => pages(path.split('?').next().unwrap_or_default()),
            _ => refuse(405, "GET only"),
        },
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return None,
        Ok(httparse::Status::Partial) => refuse(431, "the request is too long"),
        Err(_) => refuse(400, "this is no HTTP request"),
    };
    let words = match answer.code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let Answer { code, content_type, body } = answer;
    let head = format!(
        "HTTP/1.1 {code} {words}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    Some([head, body].concat().into_bytes())
}
