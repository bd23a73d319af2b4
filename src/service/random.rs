//! A seeded generator (splitmix64) of operations for tests and loads, the same in every version: what it gave once, a seed gives again.

/// Its state.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.bits() as u8).collect()
    }

    /// The operation; one in eight is cut, bent, or nothing sensible at all.
    pub fn sometimes_malformed(&mut self, mut operation: Vec<u8>) -> Vec<u8> {
        let at = self.below(operation.len() as u64 + 1) as usize;
        match self.below(24) {
            0 => operation.truncate(at),
            1 if at < operation.len() => operation[at] ^= 1 << self.below(8),
            2 => {
                let length = self.below(40);
                operation = self.bytes(length);
            }
            _ => {}
        }
        operation
    }
}
