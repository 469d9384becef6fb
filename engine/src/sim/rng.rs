//! Seeded randomness for the simulator: small, own, the same on every machine.
//!
//! Each purpose forks its own stream from the seed, so that a new kind of fault does not shift the choices of
//! the others and an old seed keeps most of its story.

use crate::time::Duration;

/// xoshiro256++, seeded through splitmix64.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    state: [u64; 4],
}

/// One step of splitmix64: a good mixer of 64 bits.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Rng {
        let mut word = seed;
        let state = core::array::from_fn(|_| {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(word)
        });
        Rng { seed, state }
    }

    /// A stream of its own for `purpose`; independent of how much of this one was used.
    pub fn fork(&self, purpose: &str) -> Rng {
        let hash = purpose.bytes().fold(mix(self.seed), |hash, byte| mix(hash ^ u64::from(byte)));
        Rng::new(hash)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.bits() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// One of the items.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// An index, chosen in proportion to its weight.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut point = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (index, weight) in weights.iter().enumerate() {
            if point < u64::from(*weight) {
                return index;
            }
            point -= u64::from(*weight);
        }
        weights.len() - 1
    }

    /// A span of `low` to `high` microseconds, both included.
    pub fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_nanos(self.between(low * 1000, high * 1000))
    }

    /// A span with a heavy tail around `mean_us` microseconds: mostly a bit less, now and then much more.
    pub fn micros_around(&mut self, mean_us: u64) -> Duration {
        let shape = self.below(1000);
        let scale = if shape < 700 {
            1
        } else if shape < 970 {
            2
        } else {
            6
        };
        self.micros(mean_us * scale / 4, mean_us * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_forks_do_not_depend_on_use() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        let first: Vec<u64> = (0..100).map(|_| a.bits()).collect();
        let again: Vec<u64> = (0..100).map(|_| b.bits()).collect();
        assert_eq!(first, again);
        assert_eq!(a.fork("disk").bits(), Rng::new(7).fork("disk").bits());
        assert_ne!(a.fork("disk").bits(), a.fork("network").bits());
    }

    #[test]
    fn numbers_are_spread_evenly() {
        let mut rng = Rng::new(1);
        let mut seen = [0u32; 10];
        for _ in 0..100_000 {
            seen[rng.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (9_500..10_500).contains(count)), "{seen:?}");
        let hits = (0..100_000).filter(|_| rng.chance(0.25)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        let mut weighed = [0u32; 3];
        for _ in 0..60_000 {
            weighed[rng.weighted(&[1, 2, 3])] += 1;
        }
        assert!(weighed[0] < weighed[1] && weighed[1] < weighed[2], "{weighed:?}");
    }
}
