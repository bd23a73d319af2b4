//! Delay, loss, duplication, reordering, partitions. Two kinds of links: FIFO ones that lose all that is under way when
//! they break, as TCP connections do, and ones that treat each message alone. State transfer has connections of its own, which are
//! always of the first kind: its cores are told when one breaks, and count on it.

use super::random::Random;
use crate::types::*;

/// How links behave.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Links keep their order; a loss breaks the connection.
    pub fifo: bool,
    /// Least and most microseconds under way.
    pub delay_us: (u64, u64),
    /// Lost messages (FIFO: broken connections) per thousand messages.
    pub loss: u64,
    /// Messages delivered twice per thousand (not FIFO).
    pub duplicates: u64,
    /// Messages per thousand that take fifty times longer (FIFO: and hold up those behind).
    pub slow: u64,
}

impl Weather {
    /// Nothing goes wrong.
    pub fn fair() -> Self {
        Self { fifo: true, delay_us: (100, 400), loss: 0, duplicates: 0, slow: 0 }
    }
}

#[derive(Clone, Debug, Default)]
struct Link {
    cut: bool,
    /// Microseconds that it takes longer.
    clogged_us: u64,
    epoch: u64,
    down_until: Tick,
    last: Tick,
}

/// A connection of state transfer between two replicas, the one of the lower id first.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// Another one each time it broke.
    generation: u64,
    down_until: Tick,
    last: [Tick; 2],
}

/// All links between replicas.
pub struct Network {
    /// How they behave now.
    pub weather: Weather,
    n: usize,
    links: Vec<Link>,
    streams: Vec<Stream>,
}

impl Network {
    /// Links between `n` replicas.
    pub fn new(n: u32, weather: Weather) -> Self {
        let n = n as usize;
        Self { weather, n, links: vec![Link::default(); n * n], streams: vec![Stream::default(); n * n] }
    }

    fn link(&mut self, from: ReplicaId, to: ReplicaId) -> &mut Link {
        &mut self.links[from.index() * self.n + to.index()]
    }

    /// Cuts or mends one direction.
    pub fn cut(&mut self, from: ReplicaId, to: ReplicaId, cut: bool) {
        let link = self.link(from, to);
        link.cut = cut;
        link.epoch += 1;
        self.stream_mut(from, to).generation += 1;
    }

    /// Makes one direction slow, or not.
    pub fn clog(&mut self, from: ReplicaId, to: ReplicaId, us: u64) {
        self.link(from, to).clogged_us = us;
    }

    /// Mends everything.
    pub fn mend(&mut self) {
        for link in &mut self.links {
            link.cut = false;
            link.clogged_us = 0;
            link.down_until = Tick(0);
        }
        self.streams.iter_mut().for_each(|stream| stream.down_until = Tick(0));
    }

    /// The connections of a crashed replica break.
    pub fn disconnect(&mut self, who: ReplicaId) {
        for other in (0..self.n as u32).map(ReplicaId) {
            self.link(who, other).epoch += 1;
            self.link(other, who).epoch += 1;
            self.stream_mut(who, other).generation += 1;
        }
    }

    /// When a message sent now arrives: never, once or twice; and the epoch of its link.
    pub fn send(
        &mut self,
        now: Tick,
        from: ReplicaId,
        to: ReplicaId,
        random: &mut Random,
    ) -> (u64, Vec<Tick>) {
        let weather = self.weather.clone();
        let link = self.link(from, to);
        if link.cut || now < link.down_until {
            return (link.epoch, Vec::new());
        }
        if random.per_mille(weather.loss) {
            if weather.fifo {
                link.epoch += 1;
                link.down_until = Tick(now.0 + random.between(100, 30_000) * 1000);
            }
            return (link.epoch, Vec::new());
        }
        let mut arrival = |link: &mut Link| {
            let mut us = random.between(weather.delay_us.0, weather.delay_us.1);
            if random.per_mille(weather.slow) {
                us *= 50;
            }
            let mut at = Tick(now.0 + (us + link.clogged_us) * 1000);
            if weather.fifo {
                at = at.max(link.last);
                link.last = at;
            }
            at
        };
        let mut times = vec![arrival(link)];
        let again = !weather.fifo && random.per_mille(weather.duplicates);
        if again {
            let us = random.between(weather.delay_us.0, weather.delay_us.1 * 20);
            times.push(Tick(now.0 + us * 1000));
        }
        (link.epoch, times)
    }

    /// Whether what was sent in this epoch of the link still arrives.
    pub fn arrives(&mut self, from: ReplicaId, to: ReplicaId, epoch: u64) -> bool {
        let fifo = self.weather.fifo;
        let link = self.link(from, to);
        !link.cut && (!fifo || link.epoch == epoch)
    }

    fn stream_mut(&mut self, a: ReplicaId, b: ReplicaId) -> &mut Stream {
        &mut self.streams[a.min(b).index() * self.n + a.max(b).index()]
    }

    /// The connection of state transfer between two replicas, while there is one. It needs both directions.
    pub fn stream(&self, now: Tick, a: ReplicaId, b: ReplicaId) -> Option<u64> {
        let cut = |from: ReplicaId, to: ReplicaId| self.links[from.index() * self.n + to.index()].cut;
        let stream = &self.streams[a.min(b).index() * self.n + a.max(b).index()];
        (now >= stream.down_until && !cut(a, b) && !cut(b, a)).then_some(stream.generation)
    }

    /// When what is sent now on this connection arrives, unless the connection is gone, or breaks.
    pub fn stream_send(
        &mut self,
        now: Tick,
        (from, to): (ReplicaId, ReplicaId),
        connection: u64,
        random: &mut Random,
    ) -> Option<Tick> {
        if self.stream(now, from, to) != Some(connection) {
            return None;
        }
        let (weather, clogged_us) = (self.weather.clone(), self.link(from, to).clogged_us);
        let stream = self.stream_mut(from, to);
        if random.per_mille(weather.loss) {
            stream.generation += 1;
            stream.down_until = Tick(now.0 + random.between(100, 30_000) * 1000);
            return None;
        }
        let mut us = random.between(weather.delay_us.0, weather.delay_us.1);
        if random.per_mille(weather.slow) {
            us *= 50;
        }
        let last = &mut stream.last[usize::from(from > to)];
        *last = Tick(now.0 + (us + clogged_us) * 1000).max(*last);
        Some(*last)
    }
}
