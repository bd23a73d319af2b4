//! The shared library as C programs get it: its name, what it exports, and the tutorial, compiled and run.

use duramen::init::{InitOptions, init};
use duramen::quorum::FaultModel;
use duramen::replica::{Replica, ReplicaOptions, format_log};
use duramen::service::KeyValueStore;
use duramen::types::ReplicaId;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HEADER: &str = include_str!("duramen.h");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo puts what it builds for tests, this one and the library that it is linked with.
fn built() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

fn version() -> String {
    format!("{}.{}", env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"))
}

/// What a program prints; none if it is not here.
fn output_of(program: &str, args: &[&Path]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => Some(String::from_utf8(out.stdout).unwrap()),
        Ok(out) => panic!("{program}: {}", String::from_utf8_lossy(&out.stderr)),
        Err(_) => {
            println!("skipped: there is no {program} here (Debian: apt-get install gcc binutils)");
            None
        }
    }
}

#[test]
fn the_library_is_named_by_its_version_and_exports_what_the_header_says() {
    let library = built().join("libduramen.so");
    let Some(dynamic) = output_of("readelf", &["-d".as_ref(), &library]) else { return };
    let name = format!("Library soname: [libduramen.so.{}]", version());
    assert!(dynamic.contains(&name), "{dynamic}");
    // Threads that have called it end in its code: it stays.
    assert!(dynamic.lines().any(|line| line.contains("FLAGS_1") && line.contains("NODELETE")), "{dynamic}");

    let Some(symbols) = output_of("nm", &["-D".as_ref(), "--defined-only".as_ref(), &library]) else {
        return;
    };
    let exported: BTreeSet<&str> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .filter(|symbol| symbol.starts_with("duramen_"))
        .collect();
    // A name before a parenthesis at the beginning of a line is a prototype's.
    let declared: BTreeSet<&str> = HEADER
        .lines()
        .filter(|line| !line.starts_with([' ', '#', '/']) && !line.starts_with("typedef"))
        .filter_map(|line| line.split_once('('))
        .map(|(before, _)| before.rsplit([' ', '*']).next().unwrap())
        .collect();
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(exported, declared);
}

/// Replicas with the key-value store in this process.
fn cluster(dir: &Path, n: u32) -> Vec<Replica> {
    let ports: Vec<TcpListener> = (0..50)
        .map(|i| 20_000 + (std::process::id() as u16 % 1000) * 8 + i * 8)
        .find_map(|first| {
            (0..2 * n as u16).map(|i| TcpListener::bind(("127.0.0.1", first + i)).ok()).collect()
        })
        .expect("free ports");
    let listen = ports[0].local_addr().unwrap().to_string();
    drop(ports);
    let options = InitOptions {
        dir: dir.to_owned(),
        replicas: n,
        model: FaultModel::Byzantine,
        listen,
        ..InitOptions::default()
    };
    let config = init(&options, &|log, config, id| Ok(format_log(log, config, id, true)?)).unwrap();
    let start = |id| {
        Replica::start(ReplicaOptions {
            allow_tmpfs: true,
            ..ReplicaOptions::new(
                config.clone(),
                dir.to_owned(),
                ReplicaId(id),
                Box::new(KeyValueStore::new()),
            )
        })
        .unwrap()
    };
    (0..n).map(start).collect()
}

/// The program of that source, in `dir` beside the library.
fn compile(dir: &Path, source: &Path) -> PathBuf {
    // As an installation has it: the name that programs ask for, and the one that the linker looks for.
    for name in ["libduramen.so".to_owned(), format!("libduramen.so.{}", version())] {
        std::os::unix::fs::symlink(built().join("libduramen.so"), dir.join(name)).unwrap();
    }
    let program = dir.join("program");
    let out = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(root().join("src/capi"))
        .arg(source)
        .arg("-L")
        .arg(dir)
        .args(["-lduramen", "-lpthread", "-o"])
        .arg(&program)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    program
}

/// Destroys handles where what the library keeps of a thread is gone: in a destructor of thread-specific data, and at exit.
const LATE: &str = r#"
#include <duramen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static duramen_conf *at_exit;

static void say(const char *where, duramen_conf *conf)
{
    int32_t failed = duramen_conf_set(conf, "nonsense", "1", NULL, 0);
    int32_t first = duramen_conf_destroy(conf);
    int32_t second = duramen_conf_destroy(conf);
    printf("%s: %d %d %d %u\n", where, failed, first, second, (unsigned)duramen_errmsg(NULL, NULL, 0));
    fflush(stdout);
}

static void late(void) { say("exit", at_exit); }

static void of_thread(void *conf) { say("thread", conf); }

static void *run(void *key)
{
    duramen_conf *conf = duramen_conf_new();
    if (pthread_setspecific(*(pthread_key_t *)key, conf) != 0)
        exit(3);
    /* Makes the library keep all that it keeps. */
    return duramen_conf_set(conf, "nonsense", "1", NULL, 0) == 0 || duramen_errmsg(NULL, NULL, 0) == 0 ? key : NULL;
}

int main(void)
{
    pthread_key_t key;
    pthread_t thread;
    void *wrong = NULL;
    if (atexit(late) != 0 || pthread_key_create(&key, of_thread) != 0)
        return 3;
    if (pthread_create(&thread, NULL, run, &key) != 0 || pthread_join(thread, &wrong) != 0 || wrong != NULL)
        return 4;
    at_exit = duramen_conf_new();
    return duramen_conf_set(at_exit, "nonsense", "1", NULL, 0) == 0 || duramen_errmsg(NULL, NULL, 0) == 0;
}
"#;

#[test]
fn handles_are_destroyed_at_a_thread_s_and_the_process_s_end() {
    if output_of("cc", &["--version".as_ref()]).is_none() {
        return;
    }
    let dir = tempfile::tempdir_in(built()).unwrap();
    let source = dir.path().join("late.c");
    std::fs::write(&source, LATE).unwrap();
    let program = compile(dir.path(), &source);
    let out = Command::new(program).env("LD_LIBRARY_PATH", dir.path()).output().unwrap();
    // DURAMEN_E_CONFIG, DURAMEN_OK, DURAMEN_E_HANDLE; no message is kept any more.
    let said = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let expected = "thread: -5 0 -2 0\nexit: -5 0 -2 0\n";
    assert_eq!((&*said.0, &*said.1, out.status.code()), (expected, "", Some(0)));
}

#[test]
fn the_tutorial_compiles_links_and_talks_to_a_cluster() {
    if output_of("cc", &["--version".as_ref()]).is_none() {
        return;
    }
    let dir = tempfile::tempdir_in(built()).unwrap();
    let program = compile(dir.path(), &root().join("tools/hosts/tutorial/put_get.c"));

    let folder = dir.path().join("cluster");
    let run = || Command::new(&program).arg(&folder).env("LD_LIBRARY_PATH", dir.path()).output().unwrap();
    let out = run();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("open: the configuration"), "{said}");

    let replicas = cluster(&folder, 4);
    let out = run();
    let said = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!((&*said.0, &*said.1, out.status.code()), ("outcome 0: blue\n", "", Some(0)));
    replicas.into_iter().for_each(Replica::stop);
}

/// Opens a configuration and asks for texts, in Python and in Lua: both read declarations as a C compiler leaves them.
const PYTHON: &str = r#"
import sys
try:
    import cffi
except ImportError:
    print("no cffi")
    sys.exit()
ffi = cffi.FFI()
ffi.cdef(open(sys.argv[1]).read())
c = ffi.dlopen(sys.argv[2])
conf = c.duramen_conf_new()
err = ffi.new("char[200]")
codes = [
    c.duramen_conf_set(conf, b"dir", b"somewhere", err, 200),
    c.duramen_conf_set(conf, b"nonsense", b"1", err, 200),
    c.duramen_conf_destroy(conf),
    c.duramen_conf_destroy(conf),
]
print(*codes, ffi.string(c.duramen_strerror(-9)).decode(), "nonsense" in ffi.string(err).decode())
print(ffi.sizeof("duramen_durable_callbacks"), ffi.string(c.duramen_version()).decode())
"#;

const LUA: &str = r#"
local ffi = require("ffi")
ffi.cdef(io.open(arg[1]):read("*a"))
local c = ffi.load(arg[2])
local conf = c.duramen_conf_new()
local err = ffi.new("char[200]")
local codes = {
    c.duramen_conf_set(conf, "dir", "somewhere", err, 200),
    c.duramen_conf_set(conf, "nonsense", "1", err, 200),
    c.duramen_conf_destroy(conf),
    c.duramen_conf_destroy(conf),
}
local named = ffi.string(err):find("nonsense") and "True" or "False"
print(table.concat(codes, " ") .. " " .. ffi.string(c.duramen_strerror(-9)) .. " " .. named)
print(tonumber(ffi.sizeof("duramen_durable_callbacks")) .. " " .. ffi.string(c.duramen_version()))
"#;

/// The declarations of the header alone, as the preprocessor leaves them: without what the system's headers add.
fn declarations() -> Option<String> {
    let out = Command::new("cc")
        .args(["-E", "-P", "-x", "c", "-std=c99", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut preprocessor) = out else {
        println!("skipped: there is no cc here (Debian: apt-get install gcc)");
        return None;
    };
    // Foreign interfaces know the types of stdint.h and stddef.h themselves.
    let header: String =
        HEADER.lines().filter(|line| !line.starts_with("#include")).map(|line| format!("{line}\n")).collect();
    preprocessor.stdin.take().unwrap().write_all(header.as_bytes()).unwrap();
    let out = preprocessor.wait_with_output().unwrap();
    assert!(out.status.success());
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn python_and_lua_read_the_header_without_edits() {
    let Some(declarations) = declarations() else { return };
    let dir = tempfile::tempdir_in(built()).unwrap();
    let header = dir.path().join("duramen.i");
    std::fs::write(&header, declarations).unwrap();
    let library = built().join("libduramen.so");
    let expected =
        format!("0 -5 0 -2 too much is under way: try again True\n64 {}\n", env!("CARGO_PKG_VERSION"));
    for (program, script, help) in [("python3", PYTHON, "python3-cffi"), ("luajit", LUA, "luajit")] {
        let source = dir.path().join(program);
        std::fs::write(&source, script).unwrap();
        let Ok(out) = Command::new(program).arg(&source).arg(&header).arg(&library).output() else {
            println!("skipped: there is no {program} here (Debian: apt-get install {help})");
            continue;
        };
        let said = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if said.0 == "no cffi\n" {
            println!("skipped: this {program} has no cffi (Debian: apt-get install {help})");
            continue;
        }
        assert_eq!((&*said.0, &*said.1), (expected.as_str(), ""), "{program}");
    }
}
