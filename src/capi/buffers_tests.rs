use super::buffers::Buffers;
use bytes::Bytes;

const KIB: usize = 1 << 10;

#[test]
fn a_copy_has_the_parts_one_behind_the_other() {
    let buffers = Buffers::default();
    assert_eq!(buffers.copy(&[]), Bytes::new());
    assert_eq!(buffers.copy(&[b"one"]), &b"one"[..]);
    assert_eq!(buffers.copy(&[b"one", b"", b"two"]), &b"onetwo"[..]);
    let (long, longer) = (vec![1; 64 * KIB], vec![2; 70 * KIB]);
    let copy = buffers.copy(&[&long, &longer, b"end"]);
    assert_eq!(copy, [&long[..], &longer, b"end"].concat());
    assert_eq!(buffers.kept().0, 0, "it is read still");
}

#[test]
fn memory_is_used_again_for_records_of_about_one_size() {
    let buffers = Buffers::default();
    let first = buffers.copy(&[&vec![1; 200 * KIB]]);
    let (at, slice) = (first.as_ptr(), first.slice(5..10));
    drop(first);
    assert_eq!(buffers.kept().0, 0, "a part of it is read still");
    drop(slice);
    assert_eq!(buffers.kept(), (1, 256 * KIB));

    let shorter = buffers.copy(&[&vec![2; 140 * KIB]]);
    assert!(shorter.as_ptr() == at && shorter == vec![2; 140 * KIB], "nothing of the first is left");
    let other = buffers.copy(&[&vec![3; 200 * KIB]]);
    assert!(other.as_ptr() != at && shorter[0] == 2);
    drop((shorter, other));
    assert_eq!(buffers.kept().0, 2);
    let much_shorter = buffers.copy(&[&vec![4; 70 * KIB]]);
    assert_eq!((buffers.kept().0, &much_shorter[..]), (2, &vec![4; 70 * KIB][..]));
}

#[test]
fn what_is_kept_has_a_bound_and_is_what_was_used_last() {
    let buffers = Buffers::default();
    let many: Vec<Bytes> = (0..100).map(|i| buffers.copy(&[&vec![i; 512 * KIB]])).collect();
    assert!(many.iter().zip(0..).all(|(copy, i)| copy.iter().all(|byte| *byte == i)));
    drop(many);
    assert_eq!(buffers.kept(), (32, 16 << 20));
    drop(buffers.copy(&[&vec![0; 16 << 20]]));
    assert_eq!(buffers.kept(), (1, 16 << 20));
    drop(buffers.copy(&[&vec![0; 17 << 20]]));
    assert_eq!(buffers.kept(), (0, 0), "a longer one is not kept");
    let left = buffers.copy(&[&vec![0; 64 * KIB]]);
    drop(buffers);
    assert_eq!(left.len(), 64 * KIB);
}
