use super::admin::*;
use super::metrics::{Metrics, Stage};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

fn start() -> Admin {
    let pages = |path: &str| match path {
        "/metrics" => Answer { code: 200, content_type: "text/plain", body: "x 1\n".repeat(200_000) },
        "/readyz" => Answer { code: 503, content_type: "text/plain", body: "behind\n".into() },
        _ => Answer { code: 404, content_type: "text/plain", body: "nothing\n".into() },
    };
    Admin::start("127.0.0.1:0".parse().unwrap(), Box::new(pages)).unwrap()
}

/// Sends bytes and reads all of the answer.
pub(super) fn ask(at: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The far end may have answered and closed before all was sent.
    let _ = socket.write_all(request);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn pages_are_served_whole_and_anything_else_is_refused() {
    let admin = start();
    let get = |path: &str| ask(admin.address(), format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let page = get("/metrics?a=b");
    assert!(
        page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("Content-Length: 800000\r\n"),
        "{}",
        &page[..200]
    );
    assert_eq!(page.split_once("\r\n\r\n").unwrap().1.len(), 800_000);
    assert!(get("/readyz").starts_with("HTTP/1.1 503 ") && get("/readyz").ends_with("behind\n"));
    assert!(get("/").starts_with("HTTP/1.1 404 "));
    assert!(ask(admin.address(), b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(
        ask(admin.address(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").starts_with("HTTP/1.1 400 ")
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
    assert!(ask(admin.address(), long.as_bytes()).starts_with("HTTP/1.1 431 "));
}

#[test]
fn silent_and_slow_clients_are_cut_and_stand_in_nobody_s_way() {
    let admin = start();
    let silent: Vec<TcpStream> =
        (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(admin.address()).unwrap()).collect();
    // One too many is closed at once; when the silent ones are cut there is room again.
    let begin = Instant::now();
    let request = b"GET /readyz HTTP/1.1\r\n\r\n";
    while !ask(admin.address(), request).starts_with("HTTP/1.1 503 ") {
        assert!(begin.elapsed() < Duration::from_secs(60), "the silent connections are kept");
        std::thread::sleep(Duration::from_millis(50));
    }
    for mut socket in silent {
        assert_eq!(socket.read(&mut [0; 1]).unwrap_or(0), 0, "it was closed unanswered");
    }
}

/// No event comes again for a connection that waits since before: all of them must be served, in the end.
#[test]
fn connections_that_the_system_refuses_for_a_while_are_served_afterwards() {
    for (errno, times) in [(libc::EMFILE, 3), (libc::ENFILE, 1), (libc::ECONNABORTED, 2), (libc::EINTR, 2)] {
        let mut left = times;
        let pages =
            Box::new(|_: &str| Answer { code: 503, content_type: "text/plain", body: "behind\n".into() });
        let accept = Box::new(move |listener: &mio::net::TcpListener| {
            if left > 0 {
                left -= 1;
                return Err(std::io::Error::from_raw_os_error(errno));
            }
            listener.accept().map(|(stream, _)| stream)
        });
        let admin = Admin::accepting("127.0.0.1:0".parse().unwrap(), pages, accept).unwrap();
        let answer = ask(admin.address(), b"GET /readyz HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 "), "errno {errno}: {answer:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_refused_with_its_address() {
    let admin = start();
    let pages = Box::new(|_: &str| Answer { code: 404, content_type: "", body: String::new() });
    let Err(e) = Admin::start(admin.address(), pages) else { panic!("the port is taken") };
    assert!(e.to_string().contains(&admin.address().to_string()), "{e}");
}

#[test]
fn a_stage_s_times_and_queue_lengths_are_told_by_quantile() {
    let metrics = Metrics::default();
    (1..=100).for_each(|us| metrics.record(Stage::Order, Duration::from_micros(us), us as usize % 10));
    let json = metrics.json();
    let order = json.split_once(r#""order":"#).unwrap().1;
    assert!(order.starts_with(r#"{"count":100,"time_us":{"p50":50."#), "{order}");
    assert!(order.contains(r#""queue":{"p50":4,"p99":9,"max":9}}"#), "{order}");
    assert!(json.contains(r#""reply":{"count":0,"#), "{json}");
    assert_eq!(metrics.of(Stage::Order).sum_ns, 5_050_000);
}
