//! Operations that wait: who gets a tuple, how a wait ends, and how many may wait.

use super::conformance::{bytes_of, context};
use super::random::Random;
use super::tuple_space_tests::{model_matches, template, tuple};
use super::*;

type Answered = Vec<(u64, TupleReply)>;

/// Begins the operation as the one of batch `seq`, at `ms` milliseconds, of client `client`; those answered are named by their batches.
fn begin(
    service: &mut TupleSpace,
    (seq, ms, client): (u64, u64, u32),
    operation: TupleOperation<'_>,
) -> (Option<TupleReply>, Answered) {
    let context = Context {
        seq: Seq(seq),
        time: WallTime(ms * 1_000_000),
        client: ClientId(client),
        session: SessionId(u64::from(client)),
        ..context(0)
    };
    let decode = |reply: Bytes| TupleReply::decode(&reply).expect("a reply");
    let reply = service.begin(&context, &operation.encode()).map(decode);
    let answers = service.answers();
    assert!(service.answers().is_empty(), "answers are given once");
    service.check();
    let answered = answers.into_iter().map(|(waiter, reply)| {
        assert_eq!(waiter.index, 0);
        (waiter.seq.0, decode(reply))
    });
    (reply, answered.collect())
}

fn space() -> TupleSpace {
    let mut service = TupleSpace::new();
    let (reply, _) = begin(&mut service, (1, 0, 1), TupleOperation::Create { space: "s" });
    assert_eq!(reply, Some(TupleReply::Ok));
    service
}

fn job(n: i64) -> Vec<Field> {
    vec!["job".into(), n.into()]
}

fn any_job() -> Vec<Pattern> {
    vec!["job".into(), FieldType::Int.into()]
}

fn waits(service: &mut TupleSpace, seq: u64, takes: bool, template: &[Pattern]) {
    let operation = match takes {
        true => TupleOperation::In { space: "s", template, wait_ms: 1000 },
        false => TupleOperation::Rd { space: "s", template, wait_ms: 1000 },
    };
    assert_eq!(begin(service, (seq, 0, seq as u32), operation), (None, vec![]));
}

fn put(service: &mut TupleSpace, seq: u64, tuple: &[Field]) -> Answered {
    let (reply, answered) = begin(service, (seq, 0, 1), TupleOperation::Out { space: "s", tuple });
    assert_eq!(reply, Some(TupleReply::Ok));
    answered
}

fn counts(service: &TupleSpace) -> (u64, u64) {
    let list = TupleOperation::List { after: "", limit: 9 }.encode();
    match TupleReply::decode(&service.query(&list).result) {
        Ok(TupleReply::Spaces { spaces, .. }) => (spaces[0].tuples, spaces[0].waiting),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_oldest_in_takes_and_every_rd_reads() {
    let mut service = space();
    let (any, seventh) = (any_job(), vec!["job".into(), 7.into()]);
    waits(&mut service, 2, true, &any);
    waits(&mut service, 3, false, &any);
    waits(&mut service, 4, true, &seventh);
    waits(&mut service, 5, false, &[Pattern::Any, Pattern::Any]);
    waits(&mut service, 6, true, &any);
    assert_eq!(counts(&service), (0, 5));
    assert_eq!(put(&mut service, 10, &["other".into()]), vec![]);
    let seven = TupleReply::Tuple(job(7));
    assert_eq!(
        put(&mut service, 11, &job(7)),
        vec![(3, seven.clone()), (5, seven.clone()), (2, seven.clone())]
    );
    assert_eq!(put(&mut service, 12, &job(8)), vec![(6, TupleReply::Tuple(job(8)))]);
    assert_eq!(put(&mut service, 13, &job(9)), vec![], "the fourth waits for another");
    assert_eq!(put(&mut service, 14, &job(7)), vec![(4, seven)]);
    assert_eq!(counts(&service), (2, 0));
}

#[test]
fn one_that_matches_is_had_at_once_and_none_is_waited_for_beside_the_order() {
    let mut service = space();
    put(&mut service, 2, &job(1));
    let any = any_job();
    let (rd, take) = (
        TupleOperation::Rd { space: "s", template: &any, wait_ms: 5 },
        TupleOperation::In { space: "s", template: &any, wait_ms: 5 },
    );
    let one = Some(TupleReply::Tuple(job(1)));
    assert_eq!(begin(&mut service, (3, 0, 1), rd), (one.clone(), vec![]));
    assert_eq!(begin(&mut service, (4, 0, 1), take), (one, vec![]));
    assert_eq!(counts(&service), (0, 0));
    // Not for a moment; not as a read; not for who asks for no answers.
    let operation = TupleOperation::In { space: "s", template: &any, wait_ms: 0 };
    assert_eq!(begin(&mut service, (5, 0, 1), operation), (Some(TupleReply::TimedOut), vec![]));
    let decode = |reply: Bytes| TupleReply::decode(&reply).unwrap();
    assert_eq!(decode(service.query(&take.encode()).result), TupleReply::NotARead);
    assert_eq!(decode(service.execute(&context(6), &rd.encode())), TupleReply::TimedOut);
    assert_eq!(counts(&service), (0, 0));
}

#[test]
fn a_cas_that_puts_hands_over_too() {
    let mut service = space();
    waits(&mut service, 2, true, &any_job());
    let (template, tuple) = (any_job(), job(3));
    let cas = TupleOperation::Cas { space: "s", template: &template, tuple: &tuple };
    let answered = vec![(2, TupleReply::Tuple(job(3)))];
    assert_eq!(begin(&mut service, (3, 0, 1), cas), (Some(TupleReply::Ok), answered));
    assert_eq!(begin(&mut service, (4, 0, 1), cas), (Some(TupleReply::Ok), vec![]));
    assert_eq!(begin(&mut service, (5, 0, 1), cas), (Some(TupleReply::Present(job(3))), vec![]));
}

#[test]
fn a_wait_ends_with_its_time_and_takes_nothing_then() {
    let mut service = space();
    let any = any_job();
    let wait = |wait_ms| TupleOperation::In { space: "s", template: &any, wait_ms };
    for (seq, ms, wait_ms) in [(2, 100, 50), (3, 110, 20), (4, 110, 20), (5, 110, WAIT_MS_MAX)] {
        assert_eq!(begin(&mut service, (seq, ms, 7), wait(wait_ms)), (None, vec![]));
    }
    // Anything that is executed tells that time has passed, were it nonsense.
    let list = TupleOperation::List { after: "", limit: 0 };
    assert_eq!(begin(&mut service, (6, 129, 1), list).1, vec![]);
    let (late, tuple) = (TupleReply::TimedOut, job(1));
    assert_eq!(begin(&mut service, (7, 130, 1), list).1, vec![(3, late.clone()), (4, late.clone())]);
    let out = TupleOperation::Out { space: "s", tuple: &tuple };
    let answered = vec![(2, late), (5, TupleReply::Tuple(job(1)))];
    assert_eq!(begin(&mut service, (8, 3000, 1), out), (Some(TupleReply::Ok), answered));
    assert_eq!(counts(&service), (0, 0));
}

#[test]
fn a_wait_ends_with_its_space() {
    let mut service = space();
    waits(&mut service, 2, true, &any_job());
    waits(&mut service, 3, false, &any_job());
    let answered = vec![(2, TupleReply::NoSpace), (3, TupleReply::NoSpace)];
    let delete = TupleOperation::Delete { space: "s" };
    assert_eq!(begin(&mut service, (4, 0, 1), delete), (Some(TupleReply::Ok), answered));
    let create = TupleOperation::Create { space: "s" };
    assert_eq!(begin(&mut service, (5, 0, 1), create), (Some(TupleReply::Ok), vec![]));
    assert_eq!(put(&mut service, 6, &job(1)), vec![]);
    assert_eq!(counts(&service), (1, 0));
}

#[test]
fn one_that_is_withdrawn_takes_nothing() {
    let mut service = space();
    waits(&mut service, 2, true, &any_job());
    waits(&mut service, 3, true, &any_job());
    let waiter = |seq| Waiter { session: SessionId(seq), seq: Seq(seq), index: 0 };
    service.withdraw(&waiter(2));
    // Who is not known does no harm.
    service.withdraw(&waiter(2));
    service.withdraw(&Waiter { index: 1, ..waiter(3) });
    assert_eq!(service.answers(), vec![]);
    assert_eq!(counts(&service), (0, 1));
    assert_eq!(put(&mut service, 4, &job(1)), vec![(3, TupleReply::Tuple(job(1)))]);
}

#[test]
fn how_many_wait_is_bounded_and_for_what_and_how_long() {
    let mut service = space();
    let any = any_job();
    let wait = |wait_ms| TupleOperation::In { space: "s", template: &any, wait_ms };
    let full = (Some(TupleReply::TooManyWait), vec![]);
    for i in 0..WAITING_PER_CLIENT_MAX as u64 {
        assert_eq!(begin(&mut service, (2 + i, 0, 7), wait(1)), (None, vec![]));
    }
    assert_eq!(begin(&mut service, (1000, 0, 7), wait(1)), full);
    assert_eq!(begin(&mut service, (1001, 0, 8), wait(1)), (None, vec![]));
    // Places become free.
    assert_eq!(put(&mut service, 1002, &job(1)), vec![(2, TupleReply::Tuple(job(1)))]);
    assert_eq!(begin(&mut service, (1003, 0, 7), wait(1)), (None, vec![]));
    assert_eq!(begin(&mut service, (1004, 0, 7), wait(1)), full);
    // The same operation a second time cannot be, and is no second wait.
    assert_eq!(begin(&mut service, (1001, 0, 8), wait(1)), full);
    let (reply, _) = begin(&mut service, (1005, 0, 9), wait(WAIT_MS_MAX + 1));
    assert!(matches!(reply, Some(TupleReply::Malformed(why)) if why.contains("an hour")));
    let long = [Pattern::Is(Field::Bytes(vec![0; WAITING_TEMPLATE_BYTES_MAX]))];
    let operation = TupleOperation::Rd { space: "s", template: &long, wait_ms: 1 };
    assert_eq!(begin(&mut service, (1006, 0, 9), operation).0, Some(TupleReply::TooLarge));
    assert_eq!(counts(&service), (0, WAITING_PER_CLIENT_MAX as u64 + 1));
}

#[test]
fn all_wait_on_in_a_state_that_is_taken_over() {
    let mut service = space();
    waits(&mut service, 2, true, &any_job());
    waits(&mut service, 3, false, &[Pattern::Any, 5.into()]);
    let bytes = bytes_of(&*service.snapshot());
    let mut other = TupleSpace::new();
    other.restore(&mut bytes.as_slice()).unwrap();
    for service in [&mut service, &mut other] {
        let five = TupleReply::Tuple(job(5));
        assert_eq!(put(service, 9, &job(5)), vec![(3, five.clone()), (2, five)]);
    }
    assert_eq!(bytes_of(&*service.snapshot()), bytes_of(&*other.snapshot()));
    // Neither rd nor in; of a space that is none.
    // Behind the header, the entry of the space's name, and the lengths and version of the next.
    let at = 24 + (16 + 2 + 8) + 16;
    assert_eq!(bytes[at], 2, "the key of the first that waits");
    let mut refused = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        assert!(other.restore(&mut bytes.as_slice()).is_err());
    };
    refused(at + 8, 9);
    refused(at + 17, 2);
}

/// As plainly as can be.
#[derive(Default)]
struct Model {
    tuples: Vec<Vec<Field>>,
    /// Batch, takes, template, until.
    waiting: Vec<(u64, bool, Vec<Pattern>, u64)>,
}

impl Model {
    fn late(&mut self, ms: u64) -> Answered {
        let (mut late, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|w| w.3 <= ms);
        self.waiting = waiting;
        late.sort_by_key(|w| (w.3, w.0));
        late.into_iter().map(|w| (w.0, TupleReply::TimedOut)).collect()
    }

    fn put(&mut self, tuple: Vec<Field>) -> Answered {
        let is_for = |w: &(u64, bool, Vec<Pattern>, u64), takes| w.1 == takes && model_matches(&w.2, &tuple);
        let mut answered: Vec<u64> = self.waiting.iter().filter(|w| is_for(w, false)).map(|w| w.0).collect();
        let taker = self.waiting.iter().find(|w| is_for(w, true)).map(|w| w.0);
        answered.extend(taker);
        self.waiting.retain(|w| !answered.contains(&w.0));
        let answered = answered.into_iter().map(|seq| (seq, TupleReply::Tuple(tuple.clone()))).collect();
        if taker.is_none() {
            self.tuples.push(tuple);
        }
        answered
    }
}

#[test]
fn it_hands_over_as_a_plain_list_does() {
    for seed in 0..4 {
        let (mut random, mut service, mut model) = (Random(seed), space(), Model::default());
        let mut handed_over = 0;
        for seq in 2..3000 {
            let ms = seq / 10;
            let client = 1 + random.below(3) as u32;
            let late = model.late(ms);
            let (template, tuple) = (template(&mut random), tuple(&mut random));
            let found = model.tuples.iter().position(|tuple| model_matches(&template, tuple));
            let kind = random.below(8);
            let (mut answered, reply, operation);
            if kind < 3 {
                operation = TupleOperation::Out { space: "s", tuple: &tuple };
                answered = model.put(tuple.clone());
                handed_over += answered.len();
                reply = Some(TupleReply::Ok);
            } else {
                let (takes, wait_ms) = (kind < 7, random.below(20) as u32);
                operation = match takes {
                    true => TupleOperation::In { space: "s", template: &template, wait_ms },
                    false => TupleOperation::Rd { space: "s", template: &template, wait_ms },
                };
                answered = Vec::new();
                reply = match found {
                    Some(at) if takes => Some(TupleReply::Tuple(model.tuples.remove(at))),
                    Some(at) => Some(TupleReply::Tuple(model.tuples[at].clone())),
                    None if wait_ms == 0 => Some(TupleReply::TimedOut),
                    None => {
                        model.waiting.push((seq, takes, template.clone(), ms + u64::from(wait_ms)));
                        None
                    }
                };
            }
            answered.splice(0..0, late);
            assert_eq!(
                begin(&mut service, (seq, ms, client), operation),
                (reply, answered),
                "operation {seq} of seed {seed}"
            );
            assert_eq!(counts(&service), (model.tuples.len() as u64, model.waiting.len() as u64));
        }
        assert!(handed_over > 100, "{handed_over}");
    }
}
