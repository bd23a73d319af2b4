//! Processes that lie.

use super::*;

/// A cluster of four in which these play a strategy.
fn with_liars(
    name: &str,
    liars: &[u32],
    change: impl FnOnce(InitOptions) -> InitOptions,
) -> (Running, Vec<Lying>) {
    let (_one, temp) = (CLUSTERS.lock(), temp_dir());
    let options = change(options(temp.path(), FaultModel::Byzantine));
    let mut cluster = LocalCluster::create(Path::new(EXE), options, &[], false).unwrap();
    let lying = liars.iter().map(|liar| {
        let mut command = Command::new(EXE);
        command.args(["start", "--replica", &liar.to_string(), "--adversary", name, "--dir"]);
        command.arg(cluster.dir()).stdout(Stdio::null()).stderr(Stdio::null());
        duramen::sys::die_with_parent(&mut command);
        Lying(command.spawn().unwrap())
    });
    let lying = lying.collect();
    let correct: Vec<u32> = (0..4).filter(|i| !liars.contains(i)).collect();
    correct.iter().for_each(|i| cluster.start(*i).unwrap());
    for i in &correct {
        cluster.wait_ready(*i, START_TIME, &|| true).unwrap();
    }
    let keys = data_dir::client_key_file(cluster.dir(), "default");
    let keys = ClientKeys::load(&keys, &cluster.config).unwrap();
    let client = Client::connect(ClientOptions::new(cluster.config.clone(), keys)).unwrap();
    (Running { cluster, client, _temp: temp, _one }, lying)
}

/// Ends with the test.
struct Lying(std::process::Child);

impl Drop for Lying {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_lies_is_counted_by_reason_and_every_call_is_answered() {
    for (liar, name, reason) in [
        (0, "equivocating-proposals", None),
        (0, "cut-batches", Some("invalid batch")),
        (3, "double-votes", Some("said something of this place before")),
    ] {
        let (running, lying) = with_liars(name, &[liar], |options| options);
        let correct: Vec<u32> = (0..4).filter(|i| *i != liar).collect();
        for call in 0..50 {
            running.put(&format!("key {call}"), "x");
        }
        let told = |i: &u32| match reason {
            Some(reason) => running.status(*i)["discards"].to_string().contains(reason),
            None => running.status(*i)["view"].as_u64() > Some(1),
        };
        assert!(correct.iter().any(told), "{name}: {}", running.status(correct[0]));
        let end = Instant::now() + PATIENCE;
        let digests = || correct.iter().map(|i| running.digest(*i)).collect::<Vec<_>>();
        let equal = |all: &[Option<(u64, String)>]| all[0].is_some() && all.iter().all(|d| *d == all[0]);
        while !equal(&digests()) {
            assert!(Instant::now() < end, "{name}: the correct replicas differ: {:?}", digests());
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(lying);
    }
}

#[test]
fn what_one_process_tells_clients_falsely_is_outvoted_and_what_two_tell_is_not_believed() {
    let get = |running: &Running, key: &str| {
        let operation = KvOperation::Get { key: key.as_bytes() }.encode();
        running.client.read(operation, Some(PATIENCE))
    };
    for name in ["wrong-replies", "unasked-replies", "false-reads"] {
        let (running, _lying) = with_liars(name, &[3], |options| options);
        for call in 0..20 {
            let (key, value) = (format!("key {call}"), format!("value {call}"));
            running.put(&key, &value);
            let Outcome::Done(reply) = get(&running, &key) else { panic!("{name}: no answer") };
            assert!(
                matches!(KvReply::decode(&reply), Ok(KvReply::Value(v)) if v[..] == *value.as_bytes()),
                "{name}"
            );
        }
    }
    // That they lie is seen where there are too many of them: not even then is it an answer.
    let (running, _lying) = with_liars("wrong-replies", &[2, 3], |options| options);
    let put = KvWrite::Put { key: b"k", value: b"v" }.into_operation();
    let outcome = running.client.session().invoke(put, Some(Duration::from_secs(2)));
    assert!(!matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}

#[test]
fn more_than_f_processes_that_execute_otherwise_stop_the_cluster_with_both_histories_and_the_place() {
    let often = |options: InitOptions| InitOptions {
        limits: Limits { window: 16, mark_interval: 4, ..options.limits },
        ..options
    };
    let halted = |running: &Running, i: u32| running.status(i)["halted"].as_str().map(str::to_owned);
    // One is silenced, and the others go on.
    let (running, lying) = with_liars("divergent-execution", &[3], often);
    (0..20).for_each(|call| running.put(&format!("key {call}"), "x"));
    let end = Instant::now() + PATIENCE;
    let why = loop {
        assert!(Instant::now() < end, "it goes on: {}", running.status(3));
        if let Some(why) = halted(&running, 3) {
            break why;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(why.contains("audit: at place 4 ") && why.contains("f+1 others have"), "{why}");
    assert!((0..3).all(|i| halted(&running, i).is_none()));
    drop((running, lying));

    let (running, _lying) = with_liars("divergent-execution", &[2, 3], often);
    let end = Instant::now() + PATIENCE;
    while !(0..4).all(|i| halted(&running, i).is_some()) {
        assert!(Instant::now() < end, "it goes on: {}", running.status(0));
        let put = KvWrite::Put { key: b"k", value: b"v" }.into_operation();
        let outcome = running.client.session().invoke(put, Some(Duration::from_millis(300)));
        assert!(!matches!(outcome, Outcome::Done(_)), "a side was taken: {outcome:?}");
    }
    for i in 0..4 {
        let why = halted(&running, i).unwrap();
        assert!(why.contains("audit: at place ") && why.matches("replies").count() == 2, "{why}");
        assert_eq!(running.status(i)["mark"].as_u64(), Some(0), "{}", running.status(i));
    }
}
