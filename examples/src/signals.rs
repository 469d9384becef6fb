//! The signals that end a process (the first asks, the second insists), and the one that has it read its configuration
//! again.

use std::sync::mpsc::Sender;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Reports the first SIGTERM or SIGINT; the second ends the process at once, with status 1.
pub(crate) fn watch<T: Send + 'static>(
    to: Sender<T>,
    what: impl Fn() -> T + Send + 'static,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                eprintln!("twinsand: asked a second time: ends at once");
                std::process::exit(1);
            }
            // A receiver that is gone is about to end anyway.
            drop(to.send(what()));
        }
    })?;
    Ok(())
}

/// Reports every SIGHUP.
pub(crate) fn watch_hangup<T: Send + 'static>(
    to: Sender<T>,
    what: impl Fn() -> T + Send + 'static,
) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    std::thread::Builder::new().name("hangup".into()).spawn(move || {
        for _ in signals.forever() {
            if to.send(what()).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
