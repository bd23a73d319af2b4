//! `duramen.h` is what these sources say, and what C and C++ compilers take.

use super::conf::KEYS;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the header's order.
const SOURCES: &[&str] = &[
    "status",
    "entry",
    "handle",
    "conf",
    "logging",
    "client",
    "service",
    "pages",
    "replica",
    "tested",
    "log",
    "page_source",
    "checkpoint",
    "checkpoint_pages",
    "durable",
    "transfer",
];

pub(super) const HEAD: &str = r#"/*
 * duramen: durable state machine replication. The C interface.
 *
 * Made from the Rust sources by cbindgen; do not edit (src/capi says how it is remade).
 *
 * RESULTS     Functions that can fail return int32_t: 0 (DURAMEN_OK) or a number that the function explains; negative: a
 *             DURAMEN_E_ code. Codes are never reused. duramen_errmsg gives a line with the details, per thread.
 * HANDLES     Pointers to duramen_client and the like are numbers to be handed back, never to be read through. NULL, a handle
 *             of another kind, one that is destroyed or was destroyed before: DURAMEN_E_HANDLE, never undefined behaviour.
 *             A handle may be used from any number of threads. A call keeps its handle alive until it returns.
 * DESTROY     Waits, up to its deadline (ms; DURAMEN_FOREVER; 0: does not wait), for calls under way and for threads.
 *             DURAMEN_E_TIMEOUT: not finished; the handle takes nothing but destroy, which may be called again. After any other
 *             result the handle is gone, and none of its threads and callbacks runs any more.
 * CALLBACKS   Run where their function says. They may call anything here, except destroy, and what says so, on their own handle
 *             (DURAMEN_E_REENTRANT). While they run, their handle is locked against destroy, which waits for them: they must not
 *             wait for a thread that destroys it, nor for one that waits for that. Those that destroy itself runs (outcomes that
 *             nobody polled for, a service's destroy) find the handle locked: all but destroy returns DURAMEN_E_STATE there, on any
 *             thread. Log lines come with any lock held: see duramen_set_log_callback. Callbacks must return: no longjmp, no
 *             C++ exception, no thread cancellation or exit through them.
 * STRUCTS     that begin with struct_size: set it to sizeof; set all of the rest to zero first. They grow at their end.
 * BYTES       Pointer and length; NULL is good where the length is 0. Input is copied unless said otherwise.
 * FORK        A child process may only call duramen_strerror, duramen_errname, duramen_version and exec while the
 *             parent has other handles than duramen_conf: everything else returns DURAMEN_E_FORKED.
 * HABITS      No signal handlers, no allocator of its own, nothing on stdout or stderr, no thread before something is opened,
 *             all threads joined after it is destroyed. Errors of its own reasoning do not abort: DURAMEN_E_INTERNAL.
 */"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn header_path() -> PathBuf {
    root().join("src/capi/duramen.h")
}

fn generate() -> String {
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        header: Some(HEAD.into()),
        include_guard: Some("DURAMEN_H".into()),
        cpp_compat: true,
        usize_is_size_t: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        style: cbindgen::Style::Both,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        line_length: 110,
        // No function here takes it.
        export: cbindgen::ExportConfig {
            include: vec!["duramen_test_services_fn".into()],
            ..Default::default()
        },
        ..Default::default()
    };
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root().join(format!("src/capi/{source}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("the sources are Rust").write(&mut text);
    let text = String::from_utf8(text).unwrap();
    // What `# Safety` says to Rust callers the head says to all.
    let mut lines: Vec<String> = Vec::new();
    let mut skipping = false;
    for line in text.lines() {
        // The typedefs are there for it.
        let short = line.replace("struct duramen_", "duramen_");
        let line = if line.starts_with("typedef struct") { line } else { &short };
        skipping = (skipping || line.trim() == "* # Safety") && line.trim() != "*/";
        if line.trim() == "*/" && lines.last().is_some_and(|last| last.trim() == "*") {
            lines.pop();
        }
        match line.strip_prefix("#define ").and_then(|define| define.split_once(" -")) {
            _ if skipping => {}
            // `x DURAMEN_E_IO` must not be a subtraction.
            Some((name, number)) => lines.push(format!("#define {name} (-{number})")),
            None => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// The committed text, or with `DURAMEN_REWRITE=1` the new one written.
pub(super) fn compare(path: &Path, now: &str) {
    if std::env::var_os("DURAMEN_REWRITE").is_some() {
        std::fs::write(path, now).unwrap();
    }
    let then = std::fs::read_to_string(path).unwrap_or_default();
    let differs = then.lines().zip(now.lines()).position(|(a, b)| a != b);
    assert!(
        then == now,
        "{} is not what the sources say (line {}): run this test with DURAMEN_REWRITE=1",
        path.display(),
        differs.map_or_else(|| then.lines().count().min(now.lines().count()) + 1, |at| at + 1)
    );
}

/// Constants that more than one of these sources defines: the header would have the value of one of them.
fn defined_twice<'a>(sources: &[&'a str]) -> Vec<&'a str> {
    let lines = sources.iter().flat_map(|source| source.lines());
    let names = lines.filter_map(|line| line.trim().strip_prefix("pub const ")?.split(':').next());
    let mut seen = std::collections::HashSet::new();
    names.map(str::trim).filter(|name| !seen.insert(*name)).collect()
}

#[test]
fn no_constant_is_defined_twice() {
    let read = |source: &&str| std::fs::read_to_string(root().join(format!("src/capi/{source}.rs"))).unwrap();
    let sources: Vec<String> = SOURCES.iter().map(read).collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    assert_eq!(defined_twice(&sources), [""; 0]);
    assert_eq!(defined_twice(&[sources[0], "x\npub const DURAMEN_E_IO: i32 = 7;\n"]), ["DURAMEN_E_IO"]);
    assert_eq!(
        defined_twice(&["pub const A: i32 = 1;", "pub const B: i32 = 1;\n  pub const A: u8 = 1;"]),
        ["A"]
    );
}

#[test]
fn the_header_is_what_the_sources_say() {
    compare(&header_path(), &generate());
}

/// A compiler of the system, if it has one.
pub(super) fn compiler(name: &str) -> Option<Command> {
    let there = Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    if !there {
        println!("skipped: there is no {name} here (Debian: apt-get install gcc g++)");
    }
    there.then(|| Command::new(name))
}

pub(super) const STRICT: &[&str] = &["-Wall", "-Wextra", "-Werror", "-pedantic"];

fn accepts(compiler_name: &str, standard: &str, suffix: &str) {
    let Some(mut compiler) = compiler(compiler_name) else { return };
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join(format!("only.{suffix}"));
    // Twice: it guards itself. Alone: it includes what it needs.
    std::fs::write(&source, "#include \"duramen.h\"\n#include \"duramen.h\"\nint used = DURAMEN_OK;\n")
        .unwrap();
    let out = compiler
        .args(STRICT)
        .args([standard, "-c", "-o", "/dev/null", "-I"])
        .arg(root().join("src/capi"))
        .arg(&source)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_c99_compiler_takes_the_header_without_a_warning() {
    accepts("cc", "-std=c99", "c");
}

#[test]
fn a_cpp_compiler_takes_the_header_without_a_warning() {
    accepts("c++", "-std=c++11", "cc");
}

#[test]
fn the_header_names_every_key_with_its_default() {
    let header = generate();
    for key in KEYS {
        let default = if key.default.is_empty() { "(none)" } else { key.default };
        let row = header.lines().find(|line| line.trim_start_matches([' ', '*', '|']).starts_with(key.name));
        let row = row.unwrap_or_else(|| panic!("no row for {}", key.name));
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        assert_eq!((cells[1], cells[2]), (key.name, default));
    }
}

/// One line per promise: constants with their values, fields with their places, functions with their types. New ones add lines.
fn abi(header: &str) -> Vec<String> {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").expect("comments end").1;
    }
    code += rest;
    let mut lines = Vec::new();
    let mut statement = String::new();
    for line in code.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
        if let Some(define) = line.strip_prefix("#define ") {
            // The guard has no value; the version is no promise.
            if define.contains(' ') && !define.starts_with("DURAMEN_VERSION ") {
                lines.push(format!("constant {define}"));
            }
        } else if !line.starts_with('#') && !line.starts_with("extern \"C\"") && line != "}" {
            statement = format!("{statement} {line}").trim().to_owned();
            if statement.ends_with(';') && statement.matches('{').count() == statement.matches('}').count() {
                lines.extend(promises(&statement));
                statement.clear();
            }
        }
    }
    assert_eq!(statement, "", "a statement does not end");
    lines
}

/// Of one statement of C.
fn promises(statement: &str) -> Vec<String> {
    let Some((head, body)) = statement.split_once('{') else {
        let kind = if statement.starts_with("typedef") { "type" } else { "function" };
        return vec![format!("{kind} {statement}")];
    };
    let name = head.trim().trim_start_matches("typedef struct").trim();
    let fields = body.split_once('}').expect("it ends").0.split(';').map(str::trim);
    let fields = fields.filter(|field| !field.is_empty()).enumerate();
    fields.map(|(i, field)| format!("field {name} {i}: {field}")).collect()
}

/// What is promised under one SONAME stays: it may grow.
fn check_promises(then: &str, now: &str) {
    let soname = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    if soname(then) != soname(now) {
        return;
    }
    for line in then.lines() {
        assert!(now.lines().any(|l| l == line), "under {} this was promised: {line}", soname(then));
    }
}

#[test]
fn nothing_that_is_exported_is_removed_or_changed_under_one_soname() {
    let path = root().join("src/capi/abi.txt");
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    let now = format!("soname libduramen.so.{major}.{minor}\n{}\n", abi(&generate()).join("\n"));
    check_promises(&std::fs::read_to_string(&path).unwrap_or_default(), &now);
    compare(&path, &now);
}

#[test]
fn a_promise_that_is_broken_is_seen() {
    let header = "/* x */\n#ifndef G\n#define G\n#define DURAMEN_A 1\ntypedef struct t {\n  size_t n;\n  int (*f)(void *);\n} t;\nint f(int a,\n      int b);\n#endif\n";
    let then = abi(header);
    let expected = [
        "constant DURAMEN_A 1",
        "field t 0: size_t n",
        "field t 1: int (*f)(void *)",
        "function int f(int a, int b);",
    ];
    assert_eq!(then, expected);
    let text = |lines: &[String]| format!("soname a\n{}\n", lines.join("\n"));
    let broken = |header: &str| {
        std::panic::catch_unwind(|| check_promises(&text(&then), &text(&abi(header)))).is_err()
    };
    assert!(!broken(header));
    assert!(!broken(&header.replace("} t;", "  int added;\n} t;")));
    assert!(broken(&header.replace("A 1", "A 2")));
    assert!(broken(&header.replace("size_t n", "int n")));
    assert!(broken(&header.replace("int b", "long b")));
    assert!(broken(&header.replace("int f(int a,\n      int b);", "")));
    check_promises(&text(&then), "soname b\n");
}
