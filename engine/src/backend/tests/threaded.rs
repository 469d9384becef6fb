//! Flush order, failures and the end of [`Threaded`], over a device that does what the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::*;
use crate::block::{Block, zeros};

/// Announces each flush and waits for its result.
struct Scripted {
    began: Sender<()>,
    results: Receiver<Result<(), DiskError>>,
    flushes: Arc<AtomicUsize>,
}

impl BlockingDevice for Scripted {
    fn geometry(&self) -> Geometry {
        Geometry { bytes: 1 << 20, sector_bytes: 512 }
    }

    fn read(&self, _offset: u64, _blocks: u32) -> DiskResult {
        panic!("a fault of the device's author");
    }

    fn write(&self, _offset: u64, _data: &[Block]) -> Result<(), DiskError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.began.send(()).unwrap();
        self.results.recv().unwrap()
    }
}

/// Passes the answers on.
struct Answers(Sender<(u64, DiskResult)>);

impl DiskSink for Answers {
    fn complete(&self, id: IoId, result: DiskResult) {
        drop(self.0.send((id.0, result)));
    }
}

struct Bench {
    disk: Threaded<Scripted>,
    began: Receiver<()>,
    result: Sender<Result<(), DiskError>>,
    flushes: Arc<AtomicUsize>,
    sink: Arc<dyn DiskSink>,
    answers: Receiver<(u64, DiskResult)>,
}

impl Bench {
    fn new(threads: usize) -> Bench {
        let (began_in, began) = unbounded();
        let (result, results) = unbounded();
        let (answers_in, answers) = unbounded();
        let flushes = Arc::new(AtomicUsize::new(0));
        let device = Scripted { began: began_in, results, flushes: Arc::clone(&flushes) };
        let disk = Threaded::new(device, threads).unwrap();
        Bench { disk, began, result, flushes, sink: Arc::new(Answers(answers_in)), answers }
    }

    fn submit(&self, id: u64, op: DiskOp) {
        self.disk.submit(BackendRequest::new(op, Arc::clone(&self.sink), IoId(id)));
    }

    fn answer(&self) -> (u64, Result<(), DiskError>) {
        let (id, result) = self.answers.recv().unwrap();
        (id, result.map(|_| ()))
    }

    /// Waits until the writes submitted here have gone through every thread that is not flushing.
    fn settle(&self, id: u64) {
        self.submit(id, DiskOp::Write { offset: 0, data: zeros(1) });
        assert_eq!(self.answer(), (id, Ok(())));
    }
}

#[test]
fn flushes_that_come_during_one_share_the_next() {
    let bench = Bench::new(2);
    bench.submit(1, DiskOp::Flush);
    bench.began.recv().unwrap();
    for id in 2..5 {
        bench.submit(id, DiskOp::Flush);
    }
    // The one other thread has seen them all when it has done this write.
    bench.settle(9);
    bench.result.send(Ok(())).unwrap();
    assert_eq!(bench.answer(), (1, Ok(())));
    bench.began.recv().unwrap();
    assert!(bench.answers.is_empty());
    bench.result.send(Ok(())).unwrap();
    assert_eq!([bench.answer(), bench.answer(), bench.answer()], [(2, Ok(())), (3, Ok(())), (4, Ok(()))]);
    assert_eq!(bench.flushes.load(Ordering::Relaxed), 2);
}

#[test]
fn after_a_failed_flush_none_succeeds() {
    let bench = Bench::new(2);
    bench.submit(1, DiskOp::Flush);
    bench.began.recv().unwrap();
    bench.submit(2, DiskOp::Flush);
    bench.settle(9);
    bench.result.send(Err(DiskError::Failed)).unwrap();
    assert_eq!(bench.answer(), (1, Err(DiskError::Failed)));
    assert_eq!(bench.answer(), (2, Err(DiskError::Failed)));
    bench.submit(3, DiskOp::Flush);
    assert_eq!(bench.answer(), (3, Err(DiskError::Failed)));
    assert_eq!(bench.flushes.load(Ordering::Relaxed), 1);
}

#[test]
fn a_device_that_panics_fails_the_request_and_no_other() {
    let bench = Bench::new(1);
    for id in 0..3 {
        bench.submit(id, DiskOp::Read { offset: 0, blocks: 1 });
        assert_eq!(bench.answer(), (id, Err(DiskError::Failed)));
    }
    bench.settle(9);
}

#[test]
fn dropping_the_disk_answers_what_is_queued() {
    let bench = Bench::new(1);
    bench.submit(1, DiskOp::Flush);
    bench.began.recv().unwrap();
    for id in 2..5 {
        bench.submit(id, DiskOp::Write { offset: 0, data: zeros(1) });
    }
    let Bench { mut disk, result, answers, .. } = bench;
    let ending = std::thread::spawn(move || {
        disk.finish();
        drop(disk);
    });
    // The end waits for the flush in progress; whichever comes first, the rest is not begun.
    result.send(Ok(())).unwrap();
    ending.join().unwrap();
    let mut found: Vec<(u64, bool)> = answers.try_iter().map(|(id, result)| (id, result.is_ok())).collect();
    found.sort_unstable();
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(found[0].1);
}

#[test]
fn a_dropped_request_answers() {
    let (sender, answers) = unbounded();
    let sink: Arc<dyn DiskSink> = Arc::new(Answers(sender));
    drop(BackendRequest::new(DiskOp::Flush, Arc::clone(&sink), IoId(1)));
    let (_, answer) = BackendRequest::new(DiskOp::Flush, Arc::clone(&sink), IoId(2)).into_parts();
    drop(answer);
    BackendRequest::new(DiskOp::Flush, sink, IoId(3)).complete(Err(DiskError::Failed));
    let found: Vec<_> = answers.iter().map(|(id, result)| (id, result.unwrap_err())).collect();
    assert_eq!(found, [(1, DiskError::Dropped), (2, DiskError::Dropped), (3, DiskError::Failed)]);
}

#[test]
fn the_last_owner_may_let_go_in_a_completion() {
    struct Holder(Mutex<Option<Threaded<Scripted>>>, Sender<()>);
    impl DiskSink for Holder {
        fn complete(&self, _id: IoId, _result: DiskResult) {
            drop(self.0.lock().take());
            self.1.send(()).unwrap();
        }
    }
    let Bench { disk, .. } = Bench::new(2);
    let (done, dropped) = unbounded();
    let holder = Arc::new(Holder(Mutex::new(None), done));
    let mut slot = holder.0.lock();
    let op = DiskOp::Write { offset: 0, data: zeros(1) };
    disk.submit(BackendRequest::new(op, Arc::clone(&holder) as Arc<dyn DiskSink>, IoId(0)));
    *slot = Some(disk);
    drop(slot);
    dropped.recv().unwrap();
}
