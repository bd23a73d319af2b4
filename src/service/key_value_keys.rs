//! The keys of one page.

/// Sorted keys, packed in one string: few cache lines to search, one copy to clone.
#[derive(Clone, Default)]
pub struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    ends: Vec<u32>,
}

impl Keys {
    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Of all keys.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.start(i)..self.ends[i] as usize]
    }

    /// The key's place, or where it would be.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    pub fn insert(&mut self, i: usize, key: &[u8]) {
        let (start, end) = (self.start(i), self.bytes.len());
        self.bytes.resize(end + key.len(), 0);
        self.bytes.copy_within(start..end, start + key.len());
        self.bytes[start..start + key.len()].copy_from_slice(key);
        self.ends.insert(i, start as u32);
        self.ends[i..].iter_mut().for_each(|end| *end += key.len() as u32);
    }

    pub fn remove(&mut self, i: usize) {
        let (start, end) = (self.start(i), self.ends[i] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(i);
        self.ends[i..].iter_mut().for_each(|e| *e -= (end - start) as u32);
    }

    pub fn push(&mut self, key: &[u8]) {
        self.insert(self.ends.len(), key);
    }

    pub fn split_off(&mut self, at: usize) -> Keys {
        let start = self.start(at);
        let mut ends = self.ends.split_off(at);
        ends.iter_mut().for_each(|end| *end -= start as u32);
        Keys { bytes: self.bytes.split_off(start), ends }
    }

    pub fn append(&mut self, other: &Keys) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + start));
    }
}
