//! The C programs here are built and run. Without a C compiler and make these tests say so and pass.

#[allow(dead_code)]
#[path = "../../src/cli/local_cluster.rs"]
mod local_cluster;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use local_cluster::free_ports;

const EXE: &str = env!("CARGO_BIN_EXE_duramen");
const HOSTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/hosts");

/// The folder with the programs; `None` where they cannot be built.
fn programs() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let there =
        |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there("cc") || !there("make") {
        eprintln!("skipped: no cc, or no make");
        return None;
    }
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hosts");
    let _ = fs::remove_dir_all(&built);
    // The library that belongs to this test; the one beside the binary may be older.
    let library = Path::new(EXE).with_file_name("deps");
    let output = Command::new("make")
        .args(["-C", HOSTS, "hosts", "services"])
        .arg(format!("BUILD={}", built.display()))
        .arg(format!("DURAMEN_INCLUDE={}/src/capi", env!("CARGO_MANIFEST_DIR")))
        .arg(format!("DURAMEN_LIB={}", library.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(built)
}

/// A cluster of four, that no replica runs of.
fn cluster() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let listen = format!("127.0.0.1:{}", free_ports(4).unwrap());
    let output = Command::new(EXE)
        .args(["init", "--replicas", "4", "--segment-mib", "8", "--listen", &listen, "--dir"])
        .arg(dir.path().join("cluster"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
}

/// Killed when dropped.
struct Replica(Child);

impl Replica {
    /// Returns once it has said that it runs.
    fn start(command: &mut Command) -> Replica {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let replica = Replica(child);
        assert!(!line.is_empty(), "{command:?} did not start");
        replica
    }

    fn terminate(mut self) -> i32 {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        self.0.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_counter_in_c_keeps_what_it_acknowledged() {
    let Some(programs) = programs() else { return };
    let dir = cluster();
    let output = Command::new(programs.join("counter_host"))
        .arg(dir.path().join("cluster"))
        .args(["--additions", "600"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // 1 + … + 600, if nothing was lost and nothing was added twice.
    assert!(said.contains("with it again: the counter is 180300, acknowledged 180300"), "{said}");
    assert!(said.contains("all killed and started again: the counter is 180300"), "{said}");
    assert!(said.ends_with("PASS\n"), "{said}");
}

#[test]
fn a_store_with_its_own_order_keeps_what_it_acknowledged() {
    let Some(programs) = programs() else { return };
    // On the disk of the build: its log wants direct writes.
    let dir = cluster();
    let output = Command::new(programs.join("kv_sequencer"))
        .arg(dir.path().join("store"))
        .args(["--kills", "4", "--cluster"])
        .arg(dir.path().join("cluster"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("PASS\n"), "{said}");
    let kills: Vec<&str> = said.lines().filter(|line| line.starts_with("killed after ")).collect();
    assert!(kills.len() == 4 && !kills[3].contains("checkpoint at 0,"), "{said}");
    // Now and then all pages are written, and one may be killed right then; not each time.
    let files = |line: &&str| line.strip_suffix(" files")?.rsplit(' ').next()?.parse::<u32>().ok();
    assert!(kills.iter().any(|line| files(line) > Some(1)), "{said}");
    assert!(said.contains(" came from 2 peers: "), "{said}");
}

/// Exit code, stdout and stderr of a test of that shared object.
fn test_library(library: &Path, fault: &str) -> (Option<i32>, String, String) {
    let output = Command::new(EXE)
        .args(["test-service", "--operations", "400", "--seed", "7", "--library"])
        .arg(library)
        .env("FAULT", fault)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn services_in_c_that_keep_the_contract_pass() {
    let Some(programs) = programs() else { return };
    for (library, fault, name, root) in [
        ("counter_service.so", "", "counter", "root none: not paged"),
        ("block_service.so", "", "disk", "root "),
        ("faulty_services.so", "no fault", "faulty", "root none: not paged"),
        ("faulty_services.so", "paged", "faulty", "root "),
        // What it prints is no part of the answer.
        ("faulty_services.so", "prints", "faulty", "root none: not paged"),
    ] {
        let (code, said, errors) = test_library(&programs.join(library), fault);
        assert_eq!(code, Some(0), "{library} {fault}: {said}{errors}");
        assert_eq!(said.lines().count(), 10, "{said}");
        assert!(said.starts_with(&format!("{name}: 400 operations of seed 7: ")), "{said}");
        assert!(
            said.lines().skip(1).take(8).all(|line| line.starts_with("after ") && line.contains(root)),
            "{said}"
        );
        assert!(
            said.ends_with("keeps the contract, by 400 operations of seed 7 in two processes\n"),
            "{said}"
        );
        assert_eq!(errors.contains("a line of the service's own"), fault == "prints", "{errors}");
    }
}

#[test]
fn services_in_c_that_break_the_contract_are_found() {
    let Some(programs) = programs() else { return };
    for (fault, why) in [
        ("address", "replies differ at operation 0"),
        ("random", "replies differ at operation 0"),
        ("static", "replies differ at operation 0"),
        ("thread", "replies differ on another thread"),
        ("query", "replies differ at operation 0"),
        ("address-in-state", "canonical bytes differ"),
        ("alive", "a snapshot"),
        ("write", "snapshot_write callback returned 5"),
        ("malformed", "DURAMEN_E_CALLBACK: faulty: the service's execute callback returned 7"),
        ("refuses", "restore callback turned it away"),
        ("forgets", "differ"),
        ("trusts", "cut to 0 bytes"),
        ("half", "a refused restore changed the state"),
        ("beside", "replies differ"),
        ("make", "make returned NULL"),
        ("gives-up", "operation callback returned 3"),
        ("too-long", "where 1048576 fit"),
        // What only another process shows.
        ("zone", "in one process"),
        ("operations", "the operation callback gives other operations"),
        ("crash", "ended the process that tested it: signal: 6"),
        ("exit", "ended the process that tested it: exit status: 0"),
        ("nothing", "has no services"),
        // A second may begin while a process runs.
        ("time", "in one process|replies differ"),
        ("uninitialised", "differ"),
    ] {
        let (code, said, errors) = test_library(&programs.join("faulty_services.so"), fault);
        assert_eq!(code, Some(1), "{fault}: {said}{errors}");
        assert!(errors.starts_with("error: ") && errors.lines().count() == 1, "{fault}: {errors}");
        assert!(why.split('|').any(|why| errors.contains(why)), "{fault}: {errors}");
        assert!(!said.contains("keeps the contract"), "{fault}: {said}");
    }
}

#[test]
fn what_is_no_library_of_services_is_told() {
    let Some(programs) = programs() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let compile = |name: &str, source: &str, more: &[&str]| {
        fs::write(path("source.c"), source).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-I"]).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/capi"));
        cc.arg(path("source.c")).arg("-o").arg(path(name)).args(more);
        assert!(cc.status().unwrap().success());
    };
    compile("without.so", "int x = 1;", &[]);
    let services = "#include <duramen.h>\nconst duramen_tested_service *duramen_test_services(size_t i) { (void)i; return 0; }";
    compile("unlinked.so", services, &[]);
    compile(
        "undefined.so",
        &format!("{services}\nint f(void) {{ return duramen_reply_set(0, 0, 0); }}"),
        &["-z", "now"],
    );
    fs::write(path("text.so"), "text").unwrap();
    for (library, why) in [
        (path("without.so"), "has no function duramen_test_services"),
        (path("unlinked.so"), "link it with -lduramen"),
        (path("undefined.so"), "link it with -lduramen"),
        (path("text.so"), "cannot be loaded: "),
        (path("nothing.so"), "cannot be loaded: No such file"),
        (programs.join("add"), "cannot be loaded: "),
    ] {
        let (code, said, errors) = test_library(&library, "");
        assert!(code == Some(1) && said.is_empty(), "{library:?}: {said}{errors}");
        let one_line = errors.starts_with("error: ") && errors.lines().count() == 1;
        assert!(one_line && errors.contains(why), "{library:?}: {errors}");
    }
    let both =
        Command::new(EXE).args(["test-service", "--service", "kv", "--library", "x"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn the_example_of_the_tutorial_is_the_one_that_runs() {
    let example = fs::read_to_string(format!("{HOSTS}/add.c")).unwrap();
    let tutorial = fs::read_to_string(format!("{HOSTS}/README.md")).unwrap();
    assert!(tutorial.contains(&format!("```c\n{example}```")), "README.md has another text than add.c");

    let Some(programs) = programs() else { return };
    let dir = cluster();
    let cluster = dir.path().join("cluster");
    let replicas: Vec<Replica> = (0..4)
        .map(|i| {
            let mut command = Command::new(programs.join("counter_host"));
            Replica::start(command.arg("--replica").arg(&cluster).arg(i.to_string()))
        })
        .collect();
    let add = |number: &str| {
        let output = Command::new(programs.join("add")).arg(&cluster).arg(number).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(add("5"), (Some(0), "5\n".into()));
    assert_eq!(add("37"), (Some(0), "42\n".into()));
    for replica in replicas {
        assert_eq!(replica.terminate(), 0, "a replica does not stop cleanly");
    }
    let gone = Command::new(programs.join("add")).arg(dir.path().join("nothing")).arg("1").output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).starts_with("error: "), "{gone:?}");
}

#[test]
fn a_replica_of_the_disk_says_why_it_does_not_start_and_stops_when_told_to() {
    let Some(programs) = programs() else { return };
    let dir = cluster();
    let replica = |cluster: &str, id: &str, size: &str| {
        let mut command = Command::new(programs.join("block_replica"));
        command.arg(dir.path().join(cluster)).args([id, "--size", size]);
        command
    };
    for (mut command, code) in [
        (replica("cluster", "0", "4095"), 2),
        (replica("cluster", "0", "0"), 2),
        (replica("cluster", "x", "4096"), 2),
        (replica("nothing", "0", "4096"), 1),
        (replica("cluster", "4", "4096"), 1),
    ] {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{command:?}: {output:?}");
    }
    let runs = Replica::start(&mut replica("cluster", "0", "1048576"));
    assert_eq!(runs.terminate(), 0);
}

#[test]
fn the_programs_that_measure_count_what_they_did() {
    let Some(programs) = programs() else { return };
    let dir = cluster();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(programs.join(program)).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let at = dir.path().to_str().unwrap();
    let (code, said) = run("log_speed", &[at, "4096", "30", "1", "threads"]);
    assert!(code == Some(0) && said.starts_with("30 records of 4096 bytes in 30 writes, p50 "), "{said}");
    let (code, said) = run("log_speed", &[at, "1048576", "40", "8"]);
    assert!(code == Some(0) && said.starts_with("40 records of 1048576 bytes in 40 writes, "), "{said}");
    assert!(said.ends_with(" MB/s\n") && !dir.path().join("log-speed").exists(), "{said}");
    assert_eq!(run("log_speed", &[at, "256", "30"]).0, Some(2));

    let at = dir.path().join("cluster");
    let replicas: Vec<Replica> = (0..4)
        .map(|i| {
            let mut command = Command::new(EXE);
            Replica::start(command.args(["start", "--replica", &i.to_string(), "--dir"]).arg(&at))
        })
        .collect();
    let load = |callbacks: &str, service: &str| {
        let shape = "--clients 2 --outstanding 20 --seconds 0.5 --warmup 0.1 --keys 100 --callbacks";
        let args = std::iter::once(at.to_str().unwrap()).chain(shape.split(' '));
        run("client_speed", &args.chain([callbacks, "--service", service]).collect::<Vec<_>>())
    };
    for callbacks in ["poll", "thread"] {
        let (code, said) = load(callbacks, "kv");
        let rate = said.split(' ').nth(1).and_then(|rate| rate.parse::<u64>().ok());
        assert!(code == Some(0) && rate > Some(0) && said.ends_with(", errors 0\n"), "{said}");
    }
    // What the store takes for no operation of its own is no success.
    let (code, said) = load("poll", "null");
    assert!(code == Some(1) && said.starts_with("throughput 0 ops/s"), "{said}");
    drop(replicas);
}
