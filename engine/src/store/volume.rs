//! What the store has of one volume: its cache, and how far it was urged.

use crate::cache::{Cache, HasCache};

/// See the module.
#[derive(Debug)]
pub(super) struct VolumeStore {
    pub(super) cache: Cache,
    /// The last call to destage everything that this volume has taken notice of, and its version then.
    urges_seen: u64,
    urged: u64,
}

impl HasCache for VolumeStore {
    fn cache(&self) -> &Cache {
        &self.cache
    }

    fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }
}

impl VolumeStore {
    /// For a volume whose last version is this.
    pub(super) fn new(version: u64) -> VolumeStore {
        VolumeStore { cache: Cache::new(version), urges_seen: 0, urged: 0 }
    }

    /// Begins a write, after so many calls to destage everything: those do not mean it. Returns its version.
    pub(super) fn next_version(&mut self, urges: u64) -> u64 {
        if self.urges_seen != urges {
            (self.urges_seen, self.urged) = (urges, self.cache.version());
        }
        self.cache.next_version()
    }

    /// Is anything not stable that the last of so many calls meant?
    pub(super) fn is_urged(&self, urges: u64) -> bool {
        let urged = if self.urges_seen == urges { self.urged } else { self.cache.version() };
        self.cache.stable_through() < urged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::time::Instant;

    #[test]
    fn a_call_to_destage_means_what_was_written_before_it() {
        let mut volume = VolumeStore::new(0);
        let write = |volume: &mut VolumeStore, urges, block| {
            let version = volume.next_version(urges);
            volume.cache.write(Instant::ZERO, block, Block::Zero, version);
        };
        assert!(!volume.is_urged(1), "nothing was written");
        write(&mut volume, 1, 1);
        assert!(!volume.is_urged(1));
        assert!(volume.is_urged(2));
        write(&mut volume, 2, 2);
        assert!(volume.is_urged(2), "the first write is not stable");
        volume.cache.issue(1);
        volume.cache.stable(Instant::ZERO, 1);
        assert!(!volume.is_urged(2), "the second came later");
    }
}
