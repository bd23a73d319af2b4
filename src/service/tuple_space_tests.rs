//! The tuple space against a plain list of tuples, and against bytes that may be anything.

use bytes::Bytes;

use super::conformance::{self, bytes_of, context};
use super::random::Random;
use super::tuple_space_fields::Cursor;
use super::*;

type Tuple = Vec<Field>;
type Template = Vec<Pattern>;

fn run(service: &mut TupleSpace, i: u64, operation: TupleOperation<'_>) -> TupleReply {
    let encoded = operation.encode();
    let asked = service.query(&encoded).result;
    let reply = service.execute(&context(i), &encoded);
    let is_read = matches!(
        operation,
        TupleOperation::Rdp { .. } | TupleOperation::RdAll { .. } | TupleOperation::List { .. }
    );
    match is_read {
        true => assert_eq!(asked, reply, "a read beside the order is the same"),
        false => assert_eq!(TupleReply::decode(&asked), Ok(TupleReply::NotARead)),
    }
    TupleReply::decode(&reply).expect("a reply")
}

fn space(names: &[&str]) -> TupleSpace {
    let mut service = TupleSpace::new();
    for (i, name) in names.iter().enumerate() {
        let reply = run(&mut service, i as u64, TupleOperation::Create { space: name });
        assert_eq!(reply, TupleReply::Ok);
    }
    service
}

fn out(service: &mut TupleSpace, tuple: &[Field]) {
    assert_eq!(run(service, 1, TupleOperation::Out { space: "s", tuple }), TupleReply::Ok);
}

fn door(who: &str, floor: i64) -> Tuple {
    vec!["door".into(), floor.into(), who.into()]
}

fn rdp(template: &[Pattern]) -> TupleOperation<'_> {
    TupleOperation::Rdp { space: "s", template }
}

fn inp(template: &[Pattern]) -> TupleOperation<'_> {
    TupleOperation::Inp { space: "s", template }
}

#[test]
fn the_oldest_match_is_read_and_taken() {
    let mut service = space(&["s"]);
    let (first, second, third) = (door("ann", 2), door("bob", 2), door("ann", 3));
    for tuple in [&first, &second, &third] {
        out(&mut service, tuple);
    }
    let of_floor = |floor: i64| [Pattern::from("door"), floor.into(), Pattern::Any];
    assert_eq!(run(&mut service, 2, rdp(&of_floor(2))), TupleReply::Tuple(first.clone()));
    assert_eq!(run(&mut service, 3, inp(&of_floor(2))), TupleReply::Tuple(first));
    assert_eq!(run(&mut service, 4, rdp(&of_floor(2))), TupleReply::Tuple(second.clone()));
    assert_eq!(run(&mut service, 5, inp(&of_floor(4))), TupleReply::NoMatch);
    let anyone = [Pattern::Any, FieldType::Int.into(), FieldType::Text.into()];
    assert_eq!(run(&mut service, 6, inp(&anyone)), TupleReply::Tuple(second));
    assert_eq!(run(&mut service, 7, inp(&anyone)), TupleReply::Tuple(third));
    assert_eq!(run(&mut service, 8, inp(&anyone)), TupleReply::NoMatch);
    assert_eq!(service.tuples(), 0);
    service.check();
}

#[test]
fn types_and_places_and_numbers_of_fields_count() {
    let mut service = space(&["s"]);
    let tuple: Tuple = vec![7.into(), "7".into(), b"7".as_slice().into()];
    out(&mut service, &tuple);
    let mut matches =
        |template: &[Pattern]| match run(&mut service, 3, TupleOperation::Rdp { space: "s", template }) {
            TupleReply::Tuple(found) => found == tuple,
            other => {
                assert_eq!(other, TupleReply::NoMatch);
                false
            }
        };
    let any = Pattern::Any;
    assert!(matches(&[any.clone(), any.clone(), any.clone()]));
    assert!(matches(&[7.into(), "7".into(), b"7".as_slice().into()]));
    assert!(matches(&[FieldType::Int.into(), FieldType::Text.into(), FieldType::Bytes.into()]));
    assert!(!matches(&["7".into(), any.clone(), any.clone()]), "a text is no integer");
    assert!(!matches(&[any.clone(), 7.into(), any.clone()]), "another place");
    assert!(!matches(&[any.clone(), b"7".as_slice().into(), any.clone()]), "bytes are no text");
    assert!(!matches(&[any.clone(), FieldType::Bytes.into(), any.clone()]), "another type");
    assert!(!matches(&[any.clone(), any.clone()]), "fewer fields");
    assert!(!matches(&[any.clone(), any.clone(), any.clone(), any.clone()]), "more fields");
    assert!(!matches(&[7.into(), "7".into()]), "fewer fields");
}

#[test]
fn a_cas_puts_only_if_nothing_matches() {
    let mut service = space(&["s"]);
    let (mine, theirs) = (door("ann", 1), door("bob", 1));
    let template: Template = vec!["door".into(), 1.into(), Pattern::Any];
    let cas = |tuple| TupleOperation::Cas { space: "s", template: &template, tuple };
    assert_eq!(run(&mut service, 1, cas(&mine)), TupleReply::Ok);
    assert_eq!(run(&mut service, 2, cas(&theirs)), TupleReply::Present(mine.clone()));
    assert_eq!(service.tuples(), 1);
    // What is put need not match what must not be there.
    let other = door("bob", 2);
    let nothing: Template = vec!["window".into()];
    let operation = TupleOperation::Cas { space: "s", template: &nothing, tuple: &other };
    assert_eq!(run(&mut service, 3, operation), TupleReply::Ok);
    assert_eq!(run(&mut service, 4, operation), TupleReply::Ok);
    assert_eq!(service.tuples(), 3);
}

#[test]
fn spaces_are_made_listed_and_removed_with_all_that_is_in_them() {
    let mut service = space(&["b", "a", "s"]);
    let create = TupleOperation::Create { space: "a" };
    assert_eq!(run(&mut service, 3, create), TupleReply::SpaceExists);
    // More than are removed in one go.
    for i in 0..2500 {
        out(&mut service, &door("x", i));
    }
    let template = [Pattern::Any, Pattern::Any, Pattern::Any];
    let operation = TupleOperation::Rdp { space: "a", template: &template };
    assert_eq!(run(&mut service, 4, operation), TupleReply::NoMatch, "each space has its own tuples");
    let entry = |name: &str, tuples| SpaceEntry { name: name.into(), tuples, waiting: 0 };
    let list = |after, limit| TupleOperation::List { after, limit };
    let all = vec![entry("a", 0), entry("b", 0), entry("s", 2500)];
    let spaces = |spaces: &[SpaceEntry], more| TupleReply::Spaces { spaces: spaces.to_vec(), more };
    assert_eq!(run(&mut service, 5, list("", 9)), spaces(&all, false));
    assert_eq!(run(&mut service, 5, list("", 2)), spaces(&all[..2], true));
    assert_eq!(run(&mut service, 5, list("b", 2)), spaces(&all[2..], false));
    assert_eq!(run(&mut service, 6, TupleOperation::Delete { space: "s" }), TupleReply::Ok);
    assert_eq!(run(&mut service, 7, TupleOperation::Delete { space: "s" }), TupleReply::NoSpace);
    assert_eq!(service.tuples(), 0);
    assert_eq!(run(&mut service, 8, list("", 9)), spaces(&all[..2], false));
    service.check();
    // One of the same name is another space.
    assert_eq!(run(&mut service, 9, TupleOperation::Create { space: "s" }), TupleReply::Ok);
    let operation = TupleOperation::Inp { space: "s", template: &template };
    assert_eq!(run(&mut service, 10, operation), TupleReply::NoMatch);
}

#[test]
fn all_matches_are_read_in_pieces() {
    let mut service = space(&["s"]);
    for i in 0..50 {
        out(&mut service, &door(if i % 2 == 0 { "even" } else { "odd" }, i));
    }
    // Of another shape, in between by age.
    out(&mut service, &["door".into(), "attic".into(), "even".into()]);
    out(&mut service, &door("even", 50));
    let read = |service: &mut TupleSpace, template: &[Pattern], limit: u32| {
        let (mut all, mut after, mut rounds) = (Vec::new(), 0, 0);
        loop {
            let operation = TupleOperation::RdAll { space: "s", template, limit, after };
            let TupleReply::Tuples { tuples, more_after } = run(service, 9, operation) else {
                panic!("no tuples")
            };
            all.extend(tuples);
            rounds += 1;
            match more_after {
                Some(more) => after = more,
                None => return (all, rounds),
            }
        }
    };
    let even: Template = vec![Pattern::Any, Pattern::Any, "even".into()];
    let (found, rounds) = read(&mut service, &even, 10);
    assert_eq!((found.len(), rounds), (27, 3));
    assert_eq!(found[25], vec!["door".into(), "attic".into(), "even".into()]);
    assert_eq!(found[26], door("even", 50));
    let any: Template = vec![Pattern::Any, Pattern::Any, Pattern::Any];
    let (found, rounds) = read(&mut service, &any, 10);
    assert_eq!((found.len(), rounds), (52, 6));
    assert_eq!((&found[7], &found[51]), (&door("odd", 7), &door("even", 50)));
    // Large ones end a reply early.
    let large: Tuple = vec![Field::Bytes(vec![1; 60_000])];
    (0..40).for_each(|_| out(&mut service, &large));
    let (found, rounds) = read(&mut service, &[Pattern::Any], 1000);
    assert_eq!((found.len(), rounds), (40, 3));
    service.check();
}

#[test]
fn what_cannot_be_done_is_answered_with_the_reason() {
    let mut service = space(&["s"]);
    let tuple = [Field::from(1)];
    let template = [Pattern::Any];
    for operation in [
        TupleOperation::Out { space: "t", tuple: &tuple },
        TupleOperation::Rdp { space: "t", template: &template },
        TupleOperation::Inp { space: "t", template: &template },
        TupleOperation::RdAll { space: "t", template: &template, limit: 1, after: 0 },
        TupleOperation::Cas { space: "t", template: &template, tuple: &tuple },
        TupleOperation::Rd { space: "t", template: &template, wait_ms: 1 },
        TupleOperation::In { space: "t", template: &template, wait_ms: 1 },
        TupleOperation::Delete { space: "t" },
    ] {
        assert_eq!(run(&mut service, 1, operation), TupleReply::NoSpace, "{operation:?}");
    }
    let large = [Field::Bytes(vec![0; TUPLE_BYTES_MAX])];
    let operation = TupleOperation::Out { space: "s", tuple: &large };
    assert_eq!(run(&mut service, 1, operation), TupleReply::TooLarge);
    let largest = [Field::Bytes(vec![0; TUPLE_BYTES_MAX - 7])];
    out(&mut service, &largest);
    let mut says = |operation: &[u8], words: &str| {
        let reply = TupleReply::decode(&service.execute(&context(1), operation));
        let Ok(TupleReply::Malformed(why)) = &reply else { panic!("{operation:?}: {reply:?}") };
        assert!(why.contains(words), "{why}");
    };
    let long = "n".repeat(256);
    says(&TupleOperation::Create { space: "" }.encode(), "1 to 255 bytes");
    says(&TupleOperation::Create { space: &long }.encode(), "1 to 255 bytes");
    says(&TupleOperation::Out { space: "s", tuple: &[] }.encode(), "without fields");
    let many = vec![Field::from(1); 65];
    says(&TupleOperation::Out { space: "s", tuple: &many }.encode(), "more than 64 fields");
    let many = vec![Pattern::Any; 1 << 17];
    says(&TupleOperation::Rdp { space: "s", template: &many }.encode(), "more than 64 fields");
    says(&[], "no such operation");
    says(&[99, 1, 2, 3], "no such operation");
    // A length that claims more than there is; a type that is none; a text that is no text; a value in place of a mark.
    says(b"\x04\x01s\x01\x01\x00\x03\xff\xff\xff\xff", "too early");
    says(b"\x04\x01s\x01\x01\x00\x09", "no known type");
    says(b"\x05\x01s\x01\x00\x84", "no known type");
    says(b"\x04\x01s\x01\x01\x00\x02\x01\x00\x00\x00\xff", "UTF-8");
    says(b"\x04\x01s\x02\x01\x00\x01", "behind a byte 1");
    says(b"\x01\x01\xff", "UTF-8");
    says(b"\x01\x01sx", "follow its end");
    assert_eq!(service.tuples(), 1);
}

#[test]
fn what_is_encoded_is_decoded() {
    let tuple: Tuple = vec![i64::MIN.into(), "späße".into(), b"\xff\x00".as_slice().into(), "".into()];
    let mut out = bytes::BytesMut::new();
    super::tuple_space_fields::put_tuple(&mut out, &tuple);
    let mut input = Cursor(&out);
    let Ok(raw) = input.tuple() else { panic!("a tuple") };
    assert_eq!((raw.decode(), input.0.len()), (tuple, 0));
    assert_eq!(TupleReply::decode(&[]), Err(NotATupleReply));
    assert_eq!(TupleReply::decode(&[77]), Err(NotATupleReply));
    assert_eq!(TupleReply::decode(&[0, 0]), Err(NotATupleReply));
    assert_eq!(TupleReply::decode(&[1, 1, 0, 9]), Err(NotATupleReply));
}

/// A space as plainly as can be.
#[derive(Default)]
struct Model {
    spaces: std::collections::BTreeMap<&'static str, Vec<(u64, Tuple)>>,
    last_id: u64,
}

pub(super) fn model_matches(template: &[Pattern], tuple: &[Field]) -> bool {
    let is = |(pattern, field): (&Pattern, &Field)| match pattern {
        Pattern::Any => true,
        Pattern::Typed(FieldType::Int) => matches!(field, Field::Int(_)),
        Pattern::Typed(FieldType::Text) => matches!(field, Field::Text(_)),
        Pattern::Typed(FieldType::Bytes) => matches!(field, Field::Bytes(_)),
        Pattern::Is(value) => value == field,
    };
    template.len() == tuple.len() && template.iter().zip(tuple).all(is)
}

impl Model {
    fn execute(&mut self, operation: &Operation) -> TupleReply {
        let name = operation.space();
        if let Operation::Create(_) = operation {
            return match self.spaces.contains_key(name) {
                true => TupleReply::SpaceExists,
                false => {
                    self.last_id += 1;
                    self.spaces.insert(name, Vec::new());
                    TupleReply::Ok
                }
            };
        }
        let Some(tuples) = self.spaces.get_mut(name) else { return TupleReply::NoSpace };
        let find = |tuples: &[(u64, Tuple)], template: &[Pattern]| {
            tuples.iter().position(|(_, tuple)| model_matches(template, tuple))
        };
        match operation {
            Operation::Create(_) => unreachable!("above"),
            Operation::Delete(_) => {
                self.spaces.remove(name);
                TupleReply::Ok
            }
            Operation::Out(_, tuple) => {
                self.last_id += 1;
                tuples.push((self.last_id, tuple.clone()));
                TupleReply::Ok
            }
            Operation::Rdp(_, template) => match find(tuples, template) {
                Some(at) => TupleReply::Tuple(tuples[at].1.clone()),
                None => TupleReply::NoMatch,
            },
            Operation::Inp(_, template) => match find(tuples, template) {
                Some(at) => TupleReply::Tuple(tuples.remove(at).1),
                None => TupleReply::NoMatch,
            },
            Operation::RdAll(_, template, limit) => {
                let all = || tuples.iter().filter(|(_, tuple)| model_matches(template, tuple));
                let found: Vec<_> = all().take(*limit as usize).cloned().collect();
                let more_after = found.last().map(|(id, _)| *id).filter(|_| all().count() > found.len());
                TupleReply::Tuples { tuples: found.into_iter().map(|(_, tuple)| tuple).collect(), more_after }
            }
            Operation::Cas(_, template, tuple) => match find(tuples, template) {
                Some(at) => TupleReply::Present(tuples[at].1.clone()),
                None => {
                    self.last_id += 1;
                    tuples.push((self.last_id, tuple.clone()));
                    TupleReply::Ok
                }
            },
        }
    }
}

enum Operation {
    Create(&'static str),
    Delete(&'static str),
    Out(&'static str, Tuple),
    Rdp(&'static str, Template),
    Inp(&'static str, Template),
    RdAll(&'static str, Template, u32),
    Cas(&'static str, Template, Tuple),
}

impl Operation {
    fn draw(random: &mut Random) -> Self {
        let space = ["one", "two", "three"][random.below(3) as usize];
        match random.below(64) {
            0..=2 => Self::Create(space),
            3 => Self::Delete(space),
            4..=31 => Self::Out(space, tuple(random)),
            32..=39 => Self::Rdp(space, template(random)),
            40..=51 => Self::Inp(space, template(random)),
            52..=57 => Self::RdAll(space, template(random), 1 + random.below(20) as u32),
            _ => Self::Cas(space, template(random), tuple(random)),
        }
    }

    fn space(&self) -> &'static str {
        match self {
            Self::Create(space)
            | Self::Delete(space)
            | Self::Out(space, _)
            | Self::Rdp(space, _)
            | Self::Inp(space, _)
            | Self::RdAll(space, ..)
            | Self::Cas(space, ..) => space,
        }
    }

    fn encode(&self) -> Bytes {
        match self {
            Self::Create(space) => TupleOperation::Create { space },
            Self::Delete(space) => TupleOperation::Delete { space },
            Self::Out(space, tuple) => TupleOperation::Out { space, tuple },
            Self::Rdp(space, template) => TupleOperation::Rdp { space, template },
            Self::Inp(space, template) => TupleOperation::Inp { space, template },
            Self::RdAll(space, template, limit) => {
                TupleOperation::RdAll { space, template, limit: *limit, after: 0 }
            }
            Self::Cas(space, template, tuple) => TupleOperation::Cas { space, template, tuple },
        }
        .encode()
    }
}

/// Few values, so that many meet.
fn field(random: &mut Random) -> Field {
    let n = random.below(4);
    match random.below(3) {
        0 => Field::Int(n as i64 - 2),
        1 => Field::Text("t".repeat(n as usize)),
        _ => Field::Bytes(vec![7; n as usize * 40]),
    }
}

pub(super) fn tuple(random: &mut Random) -> Tuple {
    (0..1 + random.below(4)).map(|_| field(random)).collect()
}

pub(super) fn template(random: &mut Random) -> Template {
    let types = [FieldType::Int, FieldType::Text, FieldType::Bytes];
    let pattern = |random: &mut Random| match random.below(5) {
        0 | 1 => Pattern::Any,
        2 => Pattern::Typed(types[random.below(3) as usize]),
        _ => Pattern::Is(field(random)),
    };
    (0..1 + random.below(4)).map(|_| pattern(random)).collect()
}

#[test]
fn it_answers_as_a_plain_list_does() {
    for seed in 0..4 {
        let (mut random, mut service, mut model) = (Random(seed), TupleSpace::new(), Model::default());
        for i in 0..5000 {
            let operation = Operation::draw(&mut random);
            let reply = TupleReply::decode(&service.execute(&context(i), &operation.encode()));
            assert_eq!(reply, Ok(model.execute(&operation)), "operation {i} of seed {seed}");
        }
        service.check();
        let tuples = model.spaces.values().map(Vec::len).sum::<usize>();
        assert_eq!(service.tuples(), tuples as u64, "seed {seed}");
    }
}

#[test]
fn it_keeps_the_contract_of_a_service() {
    let mut random = Random(11);
    let operations: Vec<_> = (0..3000)
        .map(|_| {
            let operation = Operation::draw(&mut random).encode().to_vec();
            random.sometimes_malformed(operation)
        })
        .collect();
    conformance::check(TupleSpace::new, &operations);
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let mut service = space(&["s"]);
    out(&mut service, &door("ann", 1));
    let good = bytes_of(&*service.snapshot());
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let error = TupleSpace::new().restore(&mut bytes.as_slice()).expect_err("it cannot be");
        assert!(matches!(error, RestoreError::Malformed { .. }), "{error}");
    };
    // Magic, last id, number of entries; lengths and version of the first; its key.
    refused(&|bytes| bytes[8] = 1);
    refused(&|bytes| bytes[15] = 0x7f);
    let name_at = 24 + 16;
    assert_eq!(&good[name_at..name_at + 2], b"\x01s");
    refused(&|bytes| bytes[name_at] = 2);
    refused(&|bytes| bytes[name_at + 1] = 0xff);
    // The space's id: another than its tuples name.
    refused(&|bytes| bytes[name_at + 2 + 7] = 2);
    refused(&|bytes| bytes[name_at + 2 + 7] = 0);
    // The type of its last field.
    let kind_at = good.len() - (1 + 4 + "ann".len());
    refused(&|bytes| bytes[kind_at] = 9);
}

#[test]
fn a_defined_field_is_found_without_a_look_at_the_rest() {
    let mut service = space(&["s"]);
    for i in 0..20_000 {
        out(&mut service, &[Field::from("job"), i.into(), "waiting".into()]);
    }
    let seen = |template: &[Pattern]| {
        let mut encoded = bytes::BytesMut::new();
        super::tuple_space_fields::put_template(&mut encoded, template);
        let Ok(template) = Cursor(&encoded).template() else { panic!("a template") };
        service.candidates(&template)
    };
    assert_eq!(seen(&["job".into(), 777.into(), Pattern::Any]), 1);
    assert_eq!(seen(&["job".into(), 777.into(), "done".into()]), 0);
    assert_eq!(seen(&[Pattern::Any, FieldType::Text.into(), Pattern::Any]), 0, "no tuple has these types");
    assert_eq!(seen(&["job".into(), Pattern::Any, Pattern::Any]), 20_000);
}
