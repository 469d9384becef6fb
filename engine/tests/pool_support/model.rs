//! What a session may expect to find after a crash, kept by other means than the pool's own: a plain model of
//! what each call to `append` says, and for each extent the values that its marked sectors may have.

use std::collections::{BTreeMap, BTreeSet};

use twinsan::ids::{DiskId, Generation, ItemName, VolumeId};
use twinsan::pool::{NodeRecord, Pool, Record, Slot, check};

use super::Disk;
use super::disks::{Tables, shows};

/// A volume as the model sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PlainVolume {
    /// Size that a change gave it, number of that, and whether it is deleted.
    state: (u64, u64, bool),
    generation: Generation,
    ancestors: Vec<Generation>,
    hot: BTreeSet<u32>,
    log: BTreeSet<u64>,
    /// Extent → slot, and which writes its marked sectors hold.
    pub(crate) map: BTreeMap<u32, (Slot, [u64; 2])>,
    /// Blocks of mapped extents that read as zero: extent, block.
    pub(crate) zeros: BTreeSet<(u32, u32)>,
    /// What is kept with it: revision and bytes.
    items: BTreeMap<ItemName, (u64, Vec<u8>)>,
    /// Whose clone it is, and whether hosts may not write it.
    kin: Option<(VolumeId, bool)>,
}

/// The metadata as the model sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plain {
    node: NodeRecord,
    unsure: BTreeSet<(DiskId, u64)>,
    pub(crate) volumes: BTreeMap<VolumeId, PlainVolume>,
}

impl Plain {
    pub(crate) fn apply(&mut self, record: &Record, content: u64) {
        let mut none = PlainVolume::default();
        match record {
            Record::Node(node) => self.node = *node,
            Record::VolumeCreate { volume, .. } => drop(self.volumes.entry(*volume).or_default()),
            Record::VolumeDelete { volume } => drop(self.volumes.remove(volume)),
            Record::VolumeState { volume, sectors, change, deleted, .. } => {
                let volume = self.volumes.get_mut(volume).unwrap_or(&mut none);
                volume.state = (*sectors, *change, *deleted);
                if *deleted {
                    (volume.generation, volume.ancestors) = (Generation(0), Vec::new());
                    volume.hot.clear();
                    volume.log.clear();
                    volume.items.clear();
                }
            }
            Record::VolumeClone { volume, of, read_only, .. } => {
                let model = self.volumes.get(of).filter(|_| !self.volumes.contains_key(volume));
                let (state, items) = ((0, 0, false), BTreeMap::new());
                let kin = Some((*of, *read_only));
                let clone = model.map(|model| PlainVolume { state, items, kin, ..model.clone() });
                self.volumes.extend(clone.map(|clone| (*volume, clone)));
            }
            Record::MapShared { volume, extent, slot } => {
                let old = self.volumes.get(volume).and_then(|volume| volume.map.get(extent)).map(|at| at.0);
                let all = self.volumes.values_mut().filter_map(|volume| volume.map.get_mut(extent));
                all.filter(|at| Some(at.0) == old).for_each(|at| at.0 = *slot);
            }
            Record::VolumeItem { volume, name, revision, value } => {
                let items = &mut self.volumes.get_mut(volume).unwrap_or(&mut none).items;
                items.insert(*name, (*revision, value.to_vec()));
                items.retain(|_, (_, value)| !value.is_empty());
            }
            Record::Half { volume, generation, ancestors } => {
                let volume = self.volumes.get_mut(volume).unwrap_or(&mut none);
                (volume.generation, volume.ancestors) = (*generation, ancestors.clone());
            }
            Record::Map { volume, extent, slot } => {
                // An extent that is moved takes its contents along; one that was shared has new ones.
                let map = &mut self.volumes.get_mut(volume).unwrap_or(&mut none).map;
                let at = map.entry(*extent).or_insert((*slot, [content; 2]));
                let contents = if at.1.contains(&content) { at.1 } else { [content; 2] };
                *at = (*slot, contents);
            }
            Record::Unmap { volume, extent } => {
                let volume = self.volumes.get_mut(volume).unwrap_or(&mut none);
                volume.map.remove(extent);
                volume.zeros.retain(|(of, _)| of != extent);
            }
            Record::ZeroAdd { volume, extent, first, count } => {
                let blocks = (*first..first + count).map(|block| (*extent, block));
                self.volumes.get_mut(volume).unwrap_or(&mut none).zeros.extend(blocks);
            }
            Record::ZeroRemove { volume, extent, first, count } => {
                let volume = self.volumes.get_mut(volume).unwrap_or(&mut none);
                let gone = *first..first + count;
                volume.zeros.retain(|(of, block)| of != extent || !gone.contains(block));
                for (mark, block) in mark_blocks().into_iter().enumerate() {
                    if let Some((_, contents)) = volume.map.get_mut(extent).filter(|_| gone.contains(&block))
                    {
                        contents[mark] = content;
                    }
                }
            }
            Record::HotAdd { volume, area } => {
                self.volumes.get_mut(volume).unwrap_or(&mut none).hot.insert(*area);
            }
            Record::HotRemove { volume, area } => {
                self.volumes.get_mut(volume).unwrap_or(&mut none).hot.remove(area);
            }
            Record::HotClear { volume } => self.volumes.get_mut(volume).unwrap_or(&mut none).hot.clear(),
            Record::LogAdd { volume, first, count } => {
                self.volumes.get_mut(volume).unwrap_or(&mut none).log.extend(*first..first + count);
            }
            Record::LogRemove { volume, first, count } => {
                let gone = *first..first + count;
                self.volumes.get_mut(volume).unwrap_or(&mut none).log.retain(|region| !gone.contains(region));
            }
            Record::LogClear { volume } => self.volumes.get_mut(volume).unwrap_or(&mut none).log.clear(),
            Record::UnsureAdd { disk, first, count } => {
                self.unsure.extend((*first..first + u64::from(*count)).map(|line| (*disk, line)));
            }
            Record::UnsureRemove { disk, first, count } => {
                let gone = *first..first + u64::from(*count);
                self.unsure.retain(|(of, line)| of != disk || !gone.contains(line));
            }
        }
    }
}

/// One call to `append`: the number of its last record, and the state after it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) lsn: u64,
    pub(crate) after: Plain,
}

/// What an extent may hold: the values written to it since the last one that is surely there.
pub(crate) type Contents = BTreeMap<u64, Vec<u64>>;

/// What must be found after a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) calls: Vec<Call>,
    /// A crash must not lose anything up to here.
    pub(crate) durable: u64,
    pub(crate) contents: Contents,
    /// What may be found of each disk.
    pub(crate) tables: Tables,
}

impl Expected {
    /// Is what was found on the disks allowed? `devices` tells which of them the pool knows by each number.
    pub(crate) fn check(&self, pool: &Pool, disks: &[Disk], devices: &[usize]) -> Result<(), String> {
        let found = pool.durable().0;
        if found < self.durable {
            return Err(format!("record {} was durable, the pool is back at {found}", self.durable));
        }
        let Some(call) = self.calls.iter().find(|call| call.lsn == found) else {
            return Err(format!("the pool is at record {found}, in the middle of a call"));
        };
        let plain = plain_of(pool, &call.after)?;
        if plain != call.after {
            return Err(format!("at record {found}: found {plain:?}, expected {:?}", call.after));
        }
        for volume in call.after.volumes.values() {
            for (extent, (slot, contents)) in &volume.map {
                let device = pool.device(slot.disk).ok_or_else(|| format!("no disk for {slot:?}"))?;
                let disk = &disks[devices[usize::from(device.0)]];
                for (mark, block) in mark_blocks().into_iter().enumerate() {
                    if !volume.zeros.contains(&(*extent, block)) {
                        shows(disk, pool.slot_offset(*slot), mark, &self.contents[&contents[mark]])
                            .map_err(|what| format!("{slot:?}: {what}"))?;
                    }
                }
            }
        }
        self.tables.check(pool)?;
        let report = check(pool);
        if !report.is_clean() || report.between != 0 {
            return Err(format!("the check found {report:?}"));
        }
        Ok(())
    }

    /// Tells one expectation of a session from another.
    pub(crate) fn fingerprint(&self) -> u64 {
        let contents = self.contents.values().map(|may| may.len() as u64).sum::<u64>();
        self.durable << 40 ^ (self.calls.len() as u64) << 20 ^ contents
    }
}

/// The two sectors of an extent that tests mark: the first and the last.
pub(crate) fn marks() -> [u64; 2] {
    [0, (64 << 10) - 512]
}

/// The blocks of those sectors.
pub(crate) fn mark_blocks() -> [u32; 2] {
    marks().map(|mark| (mark / 4096) as u32)
}

/// The pool's metadata in the model's terms. Which writes an extent holds the pool does not know: that is taken from `like`.
fn plain_of(pool: &Pool, like: &Plain) -> Result<Plain, String> {
    let unsure = pool.metadata().unsure();
    let unsure =
        unsure.flat_map(|(disk, lines)| lines.iter().map(move |line| (disk, line)).collect::<Vec<_>>());
    let (node, unsure) = (pool.metadata().node, unsure.collect());
    let mut plain = Plain { node, unsure, volumes: BTreeMap::new() };
    for (id, volume) in pool.metadata().volumes() {
        let old = like.volumes.get(&id).ok_or_else(|| format!("there is a volume {id}"))?;
        let content = |extent: u32| old.map.get(&extent).map_or([0; 2], |(_, contents)| *contents);
        let zeros = volume.map.zeros_from(0);
        let zeros =
            zeros.flat_map(|(extent, bits)| bits.runs().into_iter().flatten().map(move |b| (extent, b)));
        let map = volume.map.iter().map(|(extent, slot)| (extent, (slot, content(extent)))).collect();
        let (generation, ancestors) = (volume.generation, volume.ancestors.clone());
        let state = match volume.change {
            0 => (0, 0, false),
            change => (volume.sectors, change, volume.deleted),
        };
        let plain_volume = PlainVolume {
            state,
            generation,
            ancestors,
            hot: volume.hot.clone(),
            log: volume.log.iter().collect(),
            map,
            zeros: zeros.collect(),
            items: volume
                .items
                .iter()
                .map(|(&name, item)| (name, (item.revision, item.value.to_vec())))
                .collect(),
            kin: volume.kin.map(|kin| (kin.of, kin.read_only)),
        };
        plain.volumes.insert(id, plain_volume);
    }
    Ok(plain)
}
