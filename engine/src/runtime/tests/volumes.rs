//! Volumes that grow and are deleted through the engine, and what a front end sees of it.

use std::sync::Arc;

use super::super::*;
use crate::arbiter::Arbitration;
use crate::backend::{BlockBackend, MemoryBackend};
use crate::block::{BLOCK_BYTES, PagePool, payload_from};
use crate::guest::{GuestError, Sectors};
use crate::ids::{NodeName, Uuid, VolumeId};
use crate::mirror::message::VolumeRefusal;
use crate::node::config::{NodeConfig, VolumeConfig};

const VOLUME: VolumeId = VolumeId(1);
const SECTORS: u64 = 4096;

fn start(disk: &Arc<dyn BlockBackend>) -> Engine {
    start_as(disk, Uuid(9), false)
}

fn start_as(disk: &Arc<dyn BlockBackend>, uuid: Uuid, mirrored: bool) -> Engine {
    let mut config = NodeConfig::new(NodeName::A, Uuid(0x5157));
    config.arbitration = Arbitration::StopBoth;
    config.volumes.push(VolumeConfig {
        id: VOLUME,
        name: "V1".into(),
        uuid,
        sectors: SECTORS,
        mirrored,
        detect_zeros: false,
        reserved_bytes: 0,
    });
    Engine::builder(config).disk(Arc::clone(disk)).start().unwrap()
}

#[test]
fn a_volume_grows_and_is_deleted_and_stays_so() {
    let disk: Arc<dyn BlockBackend> = Arc::new(MemoryBackend::new(64 << 20));
    format_pool(&[Arc::clone(&disk)], &NewPool::new(Uuid(0x5157), NodeName::A)).unwrap();
    let engine = start(&disk);
    let volume = engine.volume(VOLUME).expect("it is configured");
    let beyond = Sectors::new(SECTORS, 8);
    let data = || payload_from(&PagePool::new(), &[7; BLOCK_BYTES]);
    assert_eq!(engine.write(VOLUME, beyond, data()), Err(GuestError::OutOfRange));
    assert_eq!(engine.grow_volume(VOLUME, SECTORS * 2), Ok(()));
    assert_eq!((volume.sectors(), volume.info().sectors), (SECTORS * 2, SECTORS * 2));
    assert_eq!(engine.write(VOLUME, beyond, data()), Ok(()));
    let smaller = engine.grow_volume(VOLUME, SECTORS);
    assert_eq!(smaller, Err(VolumeRefusal::NotLarger { sectors: SECTORS * 2 }));
    engine.kill();

    let engine = start(&disk);
    let volume = engine.volume(VOLUME).expect("it is there");
    assert_eq!(volume.sectors(), SECTORS * 2, "whatever the configuration says");
    assert_eq!(engine.delete_volume(VOLUME), Ok(()));
    assert!(volume.is_gone() && engine.volume(VOLUME).is_none() && engine.volumes().is_empty());
    assert_eq!(engine.read(VOLUME, beyond).map(drop), Err(GuestError::Gone));
    assert_eq!(engine.delete_volume(VOLUME), Err(VolumeRefusal::Unknown(VOLUME)));
    engine.kill();

    let engine = start(&disk);
    assert!(engine.volume(VOLUME).is_none());
    assert_eq!(engine.view().map(|view| view.deleted), Some(vec![VOLUME]));
    assert_eq!(engine.grow_volume(VOLUME, 1 << 20), Err(VolumeRefusal::Unknown(VOLUME)));
}

#[test]
fn the_pool_says_what_a_volume_is_before_the_configuration_does() {
    let disk: Arc<dyn BlockBackend> = Arc::new(MemoryBackend::new(64 << 20));
    format_pool(&[Arc::clone(&disk)], &NewPool::new(Uuid(0x5157), NodeName::A)).unwrap();
    start(&disk).kill();
    let engine = start_as(&disk, Uuid(8), true);
    let info = engine.volume(VOLUME).expect("it is there").info();
    assert_eq!((info.uuid, info.mirrored, info.read_only), (Uuid(9), false, false));
    assert_eq!(info.name, "V1", "the pool has no word on that");
}
