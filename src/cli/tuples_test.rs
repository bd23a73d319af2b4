//! The tuple space of a running cluster: its command line, and waits that outlive leaders and restarts.

use std::collections::BTreeSet;
use std::thread::JoinHandle;

use duramen::client::tuples::{Wanted, wait_for_tuple};
use duramen::service::{Field, FieldType, Pattern, TupleOperation, TupleReply};

use super::*;

const SPACE: &str = "s";
const TUPLES: &[&str] = &["--service", "tuples"];

fn job(n: i64) -> Vec<Field> {
    vec!["job".into(), n.into()]
}

fn any_job() -> [Pattern; 2] {
    ["job".into(), FieldType::Int.into()]
}

impl Running {
    fn asks(&self, operation: TupleOperation<'_>) -> TupleReply {
        let outcome = self.client.session().invoke(operation.encode(), Some(PATIENCE));
        let Outcome::Done(reply) = outcome else { panic!("{operation:?}: {outcome:?}") };
        TupleReply::decode(&reply).unwrap()
    }

    fn out(&self, tuple: &[Field]) {
        assert_eq!(self.asks(TupleOperation::Out { space: SPACE, tuple }), TupleReply::Ok);
    }

    /// Tuples, and operations that wait.
    fn counts(&self) -> (u64, u64) {
        match self.asks(TupleOperation::List { after: "", limit: 1 }) {
            TupleReply::Spaces { spaces, .. } => (spaces[0].tuples, spaces[0].waiting),
            other => panic!("{other:?}"),
        }
    }

    /// So many clients that each wait for a job.
    fn takers(&self, n: u64) -> Vec<JoinHandle<i64>> {
        let taker = |_| {
            let client = self.client.clone();
            std::thread::spawn(move || {
                let template = any_job();
                let wanted = Wanted { space: SPACE, template: &template, takes: true };
                match wait_for_tuple(&client, wanted, None, PATIENCE) {
                    Ok(TupleReply::Tuple(tuple)) => match tuple[..] {
                        [_, Field::Int(n)] => n,
                        _ => panic!("no job: {tuple:?}"),
                    },
                    other => panic!("{other:?}"),
                }
            })
        };
        let takers = (0..n).map(taker).collect();
        let end = Instant::now() + PATIENCE;
        while self.counts().1 != n {
            assert!(Instant::now() < end, "{:?} instead of {n} wait", self.counts());
            std::thread::sleep(Duration::from_millis(20));
        }
        takers
    }
}

fn taken(takers: Vec<JoinHandle<i64>>) -> BTreeSet<i64> {
    let n = takers.len();
    let taken: BTreeSet<i64> = takers.into_iter().map(|taker| taker.join().unwrap()).collect();
    assert_eq!(taken.len(), n, "one was taken twice");
    taken
}

fn waits_outlive(model: FaultModel) {
    let mut running = Running::serving(model, TUPLES, with_checkpoints);
    assert_eq!(running.asks(TupleOperation::Create { space: SPACE }), TupleReply::Ok);
    for round in 0..3 {
        let takers = running.takers(4);
        let leader = running.client.leader().0;
        let jobs = round * 10..round * 10 + 4;
        // One is put before, the others when the leader has gone.
        running.out(&job(jobs.start));
        running.cluster.kill(leader);
        jobs.clone().skip(1).for_each(|n| running.out(&job(n)));
        assert_eq!(taken(takers), jobs.collect());
        running.cluster.start(leader).unwrap();
        running.cluster.wait_ready(leader, START_TIME, &|| true).unwrap();
        assert_eq!(running.counts(), (0, 0));
    }

    // All go while some wait, once with the waits in the log, once in a checkpoint.
    for checkpoint in [false, true] {
        let takers = running.takers(3);
        if checkpoint {
            let count = |running: &Running| -> u64 {
                let kept = running.status(0)["checkpoints"]["kept"].as_array().cloned().unwrap_or_default();
                kept.iter().filter_map(|kept| kept.as_u64()).max().unwrap_or_default()
            };
            let before = running.status(0)["executed"].as_u64().unwrap();
            let end = Instant::now() + PATIENCE;
            while count(&running) < before {
                assert!(Instant::now() < end, "no checkpoint: {}", running.status(0));
                running.out(&["filler".into()]);
            }
        }
        running.cluster.kill_all();
        running.cluster.start_all(START_TIME, &|| true).unwrap();
        assert_eq!(running.counts().1, 3, "they wait on");
        (0..3).for_each(|n| running.out(&job(n)));
        assert_eq!(taken(takers), (0..3).collect());
        assert_eq!(running.counts().1, 0);
    }
    let job = TupleOperation::Inp { space: SPACE, template: &any_job() };
    assert_eq!(running.asks(job), TupleReply::NoMatch);
    running.wait_for_equal_digests();
}

#[test]
fn an_in_that_waits_is_answered_once_whoever_is_killed_crash() {
    waits_outlive(FaultModel::Crash);
}

#[test]
fn an_in_that_waits_is_answered_once_whoever_is_killed_byzantine() {
    waits_outlive(FaultModel::Byzantine);
}

#[test]
fn tuple_puts_reads_takes_swaps_and_waits_through_a_running_cluster() {
    let running = Running::serving(FaultModel::Crash, TUPLES, |options| options);
    let dir = running.cluster.dir().to_owned();
    let tuple = |line: &str| {
        let args: Vec<&str> = ["tuple"].into_iter().chain(line.split_whitespace()).collect();
        duramen(&[&args[..], &["--dir", "."]].concat(), &dir)
    };
    #[track_caller]
    fn says(output: &Output, text: &str) {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    }
    fails(&tuple("out s a 1"), &["no space s", "duramen tuple create"]);
    says(&tuple("create s"), "");
    fails(&tuple("create s"), &["a space s already"]);
    says(&tuple("out s a 1"), "");
    says(&tuple("out s a -2"), "");
    says(&tuple("out s b str:1 bytes:ff00"), "");
    says(&tuple("list"), "s\t3 tuples\t0 waiting\n");
    says(&tuple("rdp s ?str *"), "a\t1\n");
    says(&tuple("rdall s a ?int"), "a\t1\na\t-2\n");
    says(&tuple("rdall s * * --limit 1"), "a\t1\n");
    says(&tuple("inp s * -2"), "a\t-2\n");
    fails(&tuple("inp s * -2"), &["no tuple matches"]);
    says(&tuple("cas s --unless lock * --out lock me"), "");
    fails(&tuple("cas s --unless lock * --out lock you"), &["not put: there is lock\tme"]);
    says(&tuple("rd s b * ?bytes"), "b\tstr:1\tbytes:ff00\n");
    // Nothing else is executed meanwhile: the client sees to it that time passes.
    let began = Instant::now();
    fails(&tuple("in s nothing --wait-ms 200"), &["no tuple matched in that time"]);
    assert!(began.elapsed() >= Duration::from_millis(200));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| tuple("in s later ?int"));
        let end = Instant::now() + PATIENCE;
        while running.counts().1 == 0 {
            assert!(Instant::now() < end, "it does not wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        says(&tuple("out s later 5"), "");
        says(&waits.join().unwrap(), "later\t5\n");
    });
    fails(&tuple("rdp s later *"), &["no tuple matches"]);
    says(&tuple("delete s"), "");
    says(&tuple("list"), "");
    fails(&tuple("--client nobody list"), &["nobody", "default"]);
}
