use super::types::DigestAlgorithm;

#[test]
fn a_hash_is_of_all_bytes_however_they_are_cut() {
    const KIB: usize = 1 << 10;
    let bytes: Vec<u8> = (0..70 * KIB).map(|i| ((i * i) >> 7) as u8).collect();
    for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
        for end in [0, 1, KIB, KIB + 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 33 * KIB, 70 * KIB] {
            let whole = algorithm.hash(&[&bytes[..end]]);
            for cut in [0, 1, 20, KIB, 16 * KIB - 1, 16 * KIB, 17 * KIB, 48 * KIB] {
                let (a, b) = bytes[..end].split_at(cut.min(end));
                assert_eq!(algorithm.hash(&[a, b]), whole, "{algorithm:?} {end} {cut}");
                let (c, d) = b.split_at(b.len() / 3);
                assert_eq!(algorithm.hash(&[a, b"", c, d]), whole, "{algorithm:?} {end} {cut} in three");
            }
        }
    }
    let known = *blake3::hash(&bytes[..40 * KIB]).as_bytes();
    assert_eq!(DigestAlgorithm::Blake3.hash(&[&bytes[..20], &bytes[20..40 * KIB]]).0, known);
}
