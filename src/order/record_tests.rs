use super::record::*;
use crate::types::*;
use crate::wire::messages::*;
use bytes::Bytes;

fn samples() -> Vec<OrderRecord> {
    let certificate = Certificate {
        view: View(3),
        seq: Seq(9),
        digest: Digest([4; 32]),
        signatures: vec![(ReplicaId(0), Signature([1; 64])), (ReplicaId(2), Signature([2; 64]))],
    };
    let statement = MarkStatement {
        seq: Seq(2),
        batches: Digest([5; 32]),
        replies: Digest([6; 32]),
        state: Digest([7; 32]),
    };
    let mark = MarkCertificate { statement, signatures: certificate.signatures.clone() };
    let batch = Bytes::from_static(b"a batch is opaque to the record");
    vec![
        OrderRecord::ViewEntered { view: View(3), reserve: Seq(1024) },
        OrderRecord::Reserve { view: View(3), reserve: Seq(2048) },
        OrderRecord::Prepared { certificate: certificate.clone(), batch: batch.clone() },
        OrderRecord::PreparedRef { certificate },
        OrderRecord::Mark { mark, digests: vec![Digest([7; 32]), Digest([8; 32])] },
        OrderRecord::Batch { seq: Seq(9), digest: Digest([4; 32]), batch },
    ]
}

fn decode(e: &Encoded, payload: Vec<u8>) -> Option<OrderRecord> {
    OrderRecord::decode(e.kind, e.seq, e.view, e.digest, Bytes::from(payload)).ok()
}

#[test]
fn every_record_comes_back_from_the_log() {
    for record in samples() {
        let e = record.encode();
        let back = decode(&e, e.payload.concat()).expect("decodes");
        assert_eq!(format!("{back:?}"), format!("{record:?}"));
    }
}

#[test]
fn a_mutated_record_is_refused_or_another_record_never_a_panic() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for round in 0..20_000 {
        let samples = samples();
        let mut e = samples[round % samples.len()].encode();
        let mut payload = e.payload.concat();
        match random() % 5 {
            0 => payload.truncate(random() % (payload.len() + 1)),
            1 => payload.push(random() as u8),
            2 => e.kind = random() as u8,
            3 => e.seq = Seq(random() as u64),
            _ => {
                let at = random() % payload.len();
                payload[at] ^= 1 << (random() % 8);
            }
        }
        if let Some(record) = decode(&e, payload.clone()) {
            assert_eq!(record.encode().payload.concat(), payload, "two encodings of one record");
        }
    }
}
