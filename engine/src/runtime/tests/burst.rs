//! When what is sent to the partner is put on the wire.

#![expect(clippy::result_large_err, reason = "events are given back as the machine gives them back")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::*;
use super::beside::{builder, fake, go, take_writes};
use super::scripted::{VOLUME, answers, write};
use crate::mirror::message::Message;
use crate::node::event::Action;

/// Writes down how it is called.
#[derive(Default)]
struct Wire(Mutex<Vec<&'static str>>);

impl Wire {
    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Transport for Wire {
    fn open(&self, _inbox: Arc<dyn Inbox>) {}
    fn send(&self, _link: u64, _message: Message) {
        self.0.lock().push("send");
    }
    fn flush(&self) {
        self.0.lock().push("flush");
    }
    fn flush_if_due(&self) {
        self.0.lock().push("if due");
    }
    fn disconnect(&self, _link: u64) {}
    fn close(&self) {}
}

#[test]
fn a_burst_ends_with_what_it_held_back() {
    let machine = fake(
        |event, actions, _| {
            let tick = take_writes(event, actions)?;
            actions.push(Action::Send { link: 1, message: go(1) });
            Ok(tick)
        },
        |_, _| {},
    );
    let wire = Arc::new(Wire::default());
    let engine = builder().transport(Arc::clone(&wire) as Arc<dyn Transport>).launch(machine).unwrap();
    let volume = engine.volume(VOLUME).unwrap();
    let (sink, _heard) = answers();
    let submit = || {
        volume.submit(write(), &sink, 0);
    };

    submit();
    assert_eq!(wire.calls(), ["send", "flush"]);
    burst(|| {
        submit();
        burst(submit);
    });
    assert_eq!(wire.calls(), ["send", "if due", "send", "if due", "flush"]);
    burst(|| ());
    let panic = catch_unwind(AssertUnwindSafe(|| {
        burst(|| {
            submit();
            panic!("of a front end, on purpose");
        })
    }));
    assert!(panic.is_err());
    assert_eq!(wire.calls(), ["send", "if due", "flush"]);
    submit();
    assert_eq!(wire.calls(), ["send", "flush"]);
    engine.kill();
}
