//! The thread that asks the arbiter, one question after the other.
//!
//! Invariants: a question may take for ever, so the thread keeps nothing alive but the arbiter; an answer that an earlier
//! one contradicts does not reach the node.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, bounded};

use super::core::Core;
use crate::arbiter::{Answer, Arbiter, ArbiterError, Ask, Past};
use crate::node::event::Event;

/// Questions that wait for the arbiter. The node asks one at a time, and again when it hears nothing.
const QUESTIONS_MAX: usize = 8;

/// Is told what came of a question.
pub(super) type Told = Arc<dyn Fn(&Result<Answer, ArbiterError>) + Send + Sync>;

/// Where questions go. The thread ends with the last sender, or with the core.
pub(super) fn start(
    core: &Arc<Core>,
    arbiter: Arc<dyn Arbiter>,
    told: Option<Told>,
) -> std::io::Result<Sender<(u64, Ask)>> {
    let (questions, asked) = bounded(QUESTIONS_MAX);
    let core = Arc::downgrade(core);
    let mut past = Past::default();
    let work = move || {
        for (id, ask) in asked {
            let result = ask_once(&*arbiter, ask, &mut past);
            if let Some(told) = &told {
                // If it unwinds, the panic hook has reported it: questions go on.
                drop(catch_unwind(AssertUnwindSafe(|| told(&result))));
            }
            let Some(core) = core.upgrade() else { return };
            core.happened(Event::Arbiter { id, result });
        }
    };
    thread::Builder::new().name("twinsan-arbiter".into()).spawn(work)?;
    Ok(questions)
}

fn ask_once(arbiter: &dyn Arbiter, ask: Ask, past: &mut Past) -> Result<Answer, ArbiterError> {
    let answer = catch_unwind(AssertUnwindSafe(|| arbiter.ask(ask)))
        .unwrap_or_else(|_| Err(ArbiterError { reason: "it failed; see the log".into() }))?;
    past.judge(ask, answer).map_err(|back| ArbiterError { reason: back.to_string() })
}
