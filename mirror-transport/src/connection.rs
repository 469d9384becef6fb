//! One connection: its queue, and how what is queued gets out.
//!
//! Whoever has queued something and finds nobody writing becomes the writer: it takes all that is queued, encodes a
//! batch, and offers it to the socket. When the socket takes no more, the writer thread goes on. The others just
//! queue. `Queue::writing` is that role; who has it has the `Writer` too.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use twinsan::block::BLOCK_BYTES;
use twinsan::mirror::message::Message;
use twinsan::mirror::wire::{Encoder, Salt, WireError};

/// Bytes encoded ahead of the socket. An urgent message waits for no more than these.
const BATCH_BYTES: usize = 64 * 1024;
/// What the kernel may hold unsent; more than that is kept where an urgent message can overtake it.
const UNSENT_BYTES: u32 = 256 * 1024;
/// Batches that a sender writes before the writer thread relieves it.
const ROUNDS_MAX: usize = 16;
/// A partner's machine that answers nothing for so long is gone. (A partner's process that ends closes the
/// connection, which is noticed at once; one that hangs is judged by the node, by its heartbeats.)
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// What a message counts against the queue's cap besides its blocks.
const MESSAGE_BYTES: usize = 256;

/// The caps of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
}

pub(crate) struct Connection {
    pub(crate) link: u64,
    stream: TcpStream,
    caps: Caps,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    dropped: AtomicBool,
    reason: Mutex<Option<String>>,
}

#[derive(Default)]
struct Queue {
    urgent: VecDeque<Message>,
    ordinary: VecDeque<Message>,
    /// Of what is queued, and of what the writer has taken and not encoded.
    bytes: usize,
    messages: usize,
    writing: bool,
}

struct Writer {
    encoder: Encoder,
    urgent: VecDeque<Message>,
    ordinary: VecDeque<Message>,
    /// Encoded, and not yet taken from the queue's account.
    encoded_bytes: usize,
    encoded_messages: usize,
}

/// When what is queued is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    Now,
    /// If it is urgent, or enough for a batch: there is another flush to come.
    Due,
}

/// What came of writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flushed {
    /// Nothing is left, or another is writing.
    Done,
    /// The caller is the writer and there is more: the writer thread must go on.
    Blocked,
}

impl Connection {
    pub(crate) fn new(link: u64, stream: TcpStream, salt: Salt, caps: Caps) -> Connection {
        let writer = Writer {
            encoder: Encoder::new(salt),
            urgent: VecDeque::new(),
            ordinary: VecDeque::new(),
            encoded_bytes: 0,
            encoded_messages: 0,
        };
        Connection {
            link,
            stream,
            caps,
            queue: Mutex::default(),
            writer: Mutex::new(writer),
            dropped: AtomicBool::new(false),
            reason: Mutex::new(None),
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Closes the connection; the first reason counts.
    pub(crate) fn drop_for(&self, reason: impl FnOnce() -> String) {
        if !self.dropped.swap(true, Ordering::AcqRel) {
            *self.reason.lock() = Some(reason());
            // Fails only if the other end has closed it already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }

    pub(crate) fn send(&self, message: Message) {
        let mut queue = self.queue.lock();
        queue.messages += 1;
        queue.bytes += weight(&message);
        let over = queue.bytes > self.caps.bytes || queue.messages > self.caps.messages;
        if over {
            drop(queue);
            self.drop_for(|| "the partner does not keep up and the queue is full".to_owned());
        } else if message.is_urgent() {
            queue.urgent.push_back(message);
        } else {
            queue.ordinary.push_back(message);
        }
    }

    /// Writes what is queued, as far as the socket takes it at once.
    pub(crate) fn flush(&self, when: When) -> Flushed {
        let mut queue = self.queue.lock();
        let is_due = when == When::Now || !queue.urgent.is_empty() || queue.bytes >= BATCH_BYTES;
        if queue.writing || !is_due || (queue.urgent.is_empty() && queue.ordinary.is_empty()) {
            return Flushed::Done;
        }
        queue.writing = true;
        drop(queue);
        self.write(ROUNDS_MAX, libc::MSG_DONTWAIT)
    }

    /// Writes on, waiting for the socket, until nothing is left. For the writer thread, after
    /// [`Flushed::Blocked`].
    pub(crate) fn write_on(&self) {
        self.write(usize::MAX, 0);
    }

    fn write(&self, rounds: usize, flags: i32) -> Flushed {
        let mut writer = self.writer.lock();
        for _ in 0..rounds {
            if !self.take(&mut writer) {
                return Flushed::Done;
            }
            if let Err(error) = writer.encode() {
                self.drop_for(|| format!("a message cannot be sent: {error}"));
                return Flushed::Done;
            }
            let slices = writer.encoder.slices();
            let sent =
                SockRef::from(&self.stream).send_vectored_with_flags(&slices, flags | libc::MSG_NOSIGNAL);
            drop(slices);
            match sent {
                Ok(bytes) => writer.encoder.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.drop_for(|| error.to_string()),
            }
        }
        Flushed::Blocked
    }

    /// Takes what is queued. False if there is nothing to write; then the caller is the writer no longer. After the
    /// connection was dropped nobody becomes the writer again.
    fn take(&self, writer: &mut Writer) -> bool {
        let mut queue = self.queue.lock();
        queue.bytes -= std::mem::take(&mut writer.encoded_bytes);
        queue.messages -= std::mem::take(&mut writer.encoded_messages);
        if self.is_dropped() {
            return false;
        }
        writer.urgent.append(&mut queue.urgent);
        if writer.ordinary.is_empty() {
            std::mem::swap(&mut writer.ordinary, &mut queue.ordinary);
        }
        queue.writing = !writer.is_empty();
        queue.writing
    }
}

impl Writer {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty()
            && self.ordinary.is_empty()
            && !self.encoder.unfinished()
            && self.encoder.bytes() == 0
    }

    /// Encodes until a batch is full; urgent messages first, also between the frames of a long one.
    fn encode(&mut self) -> Result<(), WireError> {
        while self.encoder.bytes() < BATCH_BYTES {
            if self.urgent.is_empty() && self.encoder.unfinished() {
                self.encoder.go_on();
                continue;
            }
            let Some(message) = self.urgent.pop_front().or_else(|| self.ordinary.pop_front()) else { break };
            self.encoded_bytes += weight(&message);
            self.encoded_messages += 1;
            self.encoder.push(message)?;
        }
        Ok(())
    }
}

fn weight(message: &Message) -> usize {
    MESSAGE_BYTES + message.data.len() * BLOCK_BYTES
}

/// Sets a fresh connection up: no delays, little unsent in the kernel, and a watch on the partner's machine.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    let second = Duration::from_secs(1);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(2))
}
