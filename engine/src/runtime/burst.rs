//! What a thread sends to the partner leaves together, while the thread has more to do.
//!
//! Invariant: what a burst has held back is put on the wire when the burst ends, also by a panic.

#![expect(clippy::disallowed_types, reason = "what a thread is at is known to that thread alone")]

use std::cell::RefCell;
use std::sync::Arc;

use smallvec::SmallVec;

use super::lane::contain;
use super::transport::Transport;

/// Hardly ever more than one.
type Transports = SmallVec<[Arc<dyn Transport>; 2]>;

thread_local! {
    /// The transports that the burst of this thread has held back; `None`: there is no burst.
    static HELD_BACK: RefCell<Option<Transports>> = const { RefCell::new(None) };
}

/// Does `work`, which makes many requests in a row, or delivers many messages.
///
/// What they send to the partner is put on the wire [when it is due](Transport::flush_if_due), and at the end: one system
/// call for many messages. So is what other threads leave to this one meanwhile, such as confirmations to the partner. A burst
/// within a burst is part of that.
///
/// A front end makes one of the commands that came with one receive. It should not last long: the partner begins so much later.
pub fn burst<T>(work: impl FnOnce() -> T) -> T {
    let is_first = HELD_BACK.with_borrow_mut(|held| {
        let is_first = held.is_none();
        held.get_or_insert_default();
        is_first
    });
    let _end = is_first.then(|| End);
    work()
}

struct End;

impl Drop for End {
    fn drop(&mut self) {
        let held = HELD_BACK.take().unwrap_or_default();
        held.iter().for_each(|transport| contain(|| transport.flush()));
    }
}

/// Messages have been sent: puts them on the wire, or leaves that to the burst of this thread.
pub(super) fn flush(transport: &Arc<dyn Transport>) {
    let held_back = HELD_BACK.with_borrow_mut(|held| match held {
        Some(held) => {
            if !held.iter().any(|known| Arc::ptr_eq(known, transport)) {
                held.push(Arc::clone(transport));
            }
            true
        }
        None => false,
    });
    contain(|| if held_back { transport.flush_if_due() } else { transport.flush() });
}
