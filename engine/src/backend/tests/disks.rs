//! What every shipped disk must do.

use std::sync::Arc;

use super::super::*;
use super::TempDir;
use crate::block::{Block, PagePool, Payload, payload_from, zeros};

const MIB: u64 = 1 << 20;

fn each_disk(test: impl Fn(&dyn BlockBackend)) {
    let dir = TempDir::new();
    test(&MemoryBackend::new(8 * MIB + 5));
    for direct in [true, false] {
        let path = dir.file(format!("direct-{direct}"));
        create_sparse(&path, 8 * MIB + 5).unwrap();
        let backend = FileBackend::open(&path, &FileOptions { direct, ..Default::default() }).unwrap();
        assert!(direct || !backend.is_direct());
        test(&backend);
    }
}

fn pattern(pool: &PagePool, first: u64, blocks: usize) -> Payload {
    let bytes: Vec<u8> = (0..blocks as u64)
        .flat_map(|block| (first + block + 1).to_le_bytes().repeat(BLOCK_BYTES / 8))
        .collect();
    payload_from(pool, &bytes)
}

fn read(disk: &dyn BlockBackend, block: u64, blocks: u32) -> DiskResult {
    perform(disk, DiskOp::Read { offset: block * BLOCK_BYTES as u64, blocks })
}

fn write(disk: &dyn BlockBackend, block: u64, data: Payload) -> DiskResult {
    perform(disk, DiskOp::Write { offset: block * BLOCK_BYTES as u64, data })
}

#[track_caller]
fn assert_same(found: &[Block], expected: &[Block]) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found.same(expected), "block {at}");
        if let Block::Data(page) = found {
            assert_eq!(page.crc(), crc32c::crc32c(page.bytes()));
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let pool = PagePool::new();
    each_disk(|disk| {
        assert_eq!(disk.geometry(), Geometry { bytes: 8 * MIB, sector_bytes: 512 });
        assert_same(&read(disk, 7, 3).unwrap(), &zeros(3));

        // More pieces than one vectored call takes, zeros and data mixed.
        let mut data = pattern(&pool, 100, 1500);
        data[3] = Block::Zero;
        data[1030] = Block::Zero;
        assert_eq!(write(disk, 100, data.clone()).unwrap().len(), 0);
        assert_eq!(perform(disk, DiskOp::Flush).unwrap().len(), 0);
        assert_same(&read(disk, 100, 1500).unwrap(), &data);
        assert_same(&read(disk, 99, 2).unwrap(), &[Block::Zero, data[0].clone()]);

        write(disk, 101, zeros(2)).unwrap();
        assert_same(&read(disk, 100, 3).unwrap(), &[data[0].clone(), Block::Zero, Block::Zero]);
        write(disk, 2047, pattern(&pool, 9, 1)).unwrap();
        assert_same(&read(disk, 2047, 1).unwrap(), &pattern(&pool, 9, 1));
    });
}

#[test]
fn what_lies_outside_is_refused() {
    each_disk(|disk| {
        assert_eq!(read(disk, 2048, 1).unwrap_err(), DiskError::Invalid);
        assert_eq!(read(disk, 2047, 2).unwrap_err(), DiskError::Invalid);
        assert_eq!(write(disk, 2047, zeros(2)).unwrap_err(), DiskError::Invalid);
        for offset in [512, 4095, u64::MAX - 4095] {
            assert_eq!(perform(disk, DiskOp::Read { offset, blocks: 1 }).unwrap_err(), DiskError::Invalid);
            assert_eq!(
                perform(disk, DiskOp::Write { offset, data: zeros(1) }).unwrap_err(),
                DiskError::Invalid
            );
        }
    });
}

#[test]
fn many_requests_in_flight_are_each_answered_once() {
    struct Count(Mutex<Vec<u32>>, Condvar);
    impl DiskSink for Count {
        fn complete(&self, id: IoId, result: DiskResult) {
            result.unwrap();
            let mut answers = self.0.lock();
            answers[id.0 as usize] += 1;
            self.1.notify_one();
        }
    }
    let pool = PagePool::new();
    each_disk(|disk| {
        let count = Arc::new(Count(Mutex::new(vec![0; 256]), Condvar::new()));
        for id in 0..256u64 {
            let op = match id % 4 {
                0 => DiskOp::Flush,
                1 => DiskOp::Read { offset: 0, blocks: 4 },
                _ => DiskOp::Write { offset: (id + 8) * BLOCK_BYTES as u64, data: pattern(&pool, id, 1) },
            };
            disk.submit(BackendRequest::new(op, Arc::clone(&count) as Arc<dyn DiskSink>, IoId(id)));
        }
        let mut answers = count.0.lock();
        while answers.contains(&0) {
            count.1.wait(&mut answers);
        }
        assert!(answers.iter().all(|times| *times == 1));
        for id in (0..256u64).filter(|id| id % 4 > 1) {
            assert_same(&read(disk, id + 8, 1).unwrap(), &pattern(&pool, id, 1));
        }
    });
}

#[test]
fn a_pool_disk_is_opened_once() {
    let dir = TempDir::new();
    let path = dir.file("disk");
    create_sparse(&path, MIB).unwrap();
    let first = FileBackend::open(&path, &FileOptions::default()).unwrap();
    let Err(second) = FileBackend::open(&path, &FileOptions::default()) else { panic!("opened twice") };
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    write(&first, 3, zeros(1)).unwrap();
    drop(first);
    FileBackend::open(&path, &FileOptions::default()).unwrap();
}

#[test]
fn files_that_cannot_be_disks_are_refused() {
    let dir = TempDir::new();
    let path = dir.file("disk");
    let refused = |path: &std::path::Path| match FileBackend::open(path, &FileOptions::default()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    };
    assert!(matches!(refused(&path), OpenError::System { .. }));
    create_sparse(&path, 4095).unwrap();
    assert!(matches!(refused(&path), OpenError::Empty { .. }));
    assert!(matches!(refused(&dir.0), OpenError::System { .. }));
    assert!(matches!(create_sparse(&path, MIB).unwrap_err(), OpenError::System { .. }));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4095);
}

#[test]
fn a_truncated_file_fails_its_reads() {
    let dir = TempDir::new();
    let path = dir.file("disk");
    create_sparse(&path, MIB).unwrap();
    let disk = FileBackend::open(&path, &FileOptions::default()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
    assert_eq!(read(&disk, 0, 2).unwrap().len(), 2);
    assert_eq!(read(&disk, 1, 2).unwrap_err(), DiskError::Unreadable);
}
