//! What a link to the partner looks like to the engine.
//!
//! A transport makes connections, one at a time, and makes a new one when the last is gone. Each has a number,
//! its *link*, that rises with every connection and begins above zero. Within a link messages arrive in the order
//! they were sent, each once, unchanged, or the link goes down; only [urgent](Message::is_urgent) ones may
//! overtake.

use std::sync::Arc;

use crate::mirror::message::Message;

/// A way to the partner.
///
/// No call blocks, and none may call the [`Inbox`] while it holds a lock that another of these calls takes: the
/// inbox runs the node on the calling thread, and the node's answers come straight back to [`send`](Self::send).
pub trait Transport: Send + Sync {
    /// Begins to make connections, and reports to `inbox`. Called once, before anything else.
    fn open(&self, inbox: Arc<dyn Inbox>);

    /// Queues a message; it is dropped if `link` is not the connection that is up. The node bounds the blocks in
    /// flight; a transport whose own cap is exceeded disconnects.
    fn send(&self, link: u64, message: Message);

    /// Nothing more will be sent for now: put what is queued on the wire.
    fn flush(&self);

    /// As [`flush`](Self::flush), but the calling thread has more to do and flushes in a moment: what goes well together
    /// with what will come may wait for that, unless it is urgent, or so much that the partner had better begin.
    fn flush_if_due(&self) {
        self.flush();
    }

    /// Drops the connection `link`, if it is up, and makes a new one after a pause. Reported as
    /// [`Inbox::link_down`].
    fn disconnect(&self, link: u64);

    /// Drops the connection and makes no other, gives up the inbox, and stops. A message or report that is already
    /// under way may still reach the inbox. It may be called more than once, and without `open` before it.
    fn close(&self);
}

/// Takes what a [`Transport`] reports. Calls for one link come one after another, from any thread. They do not
/// block, but may run the node: see [`Transport`].
pub trait Inbox: Send + Sync {
    /// A connection to the partner is up.
    fn link_up(&self, link: u64);

    /// The connection is gone. Nothing comes from it any more.
    fn link_down(&self, link: u64);

    /// A message came on a connection that is up.
    fn message(&self, link: u64, message: Message);
}
