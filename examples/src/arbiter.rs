//! The node's arbiter: made from the configuration; and what it has answered last, for the status and the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use twinsan::arbiter::{Answer, Arbiter, ArbiterError};
use twinsan::backend::FileArbiter;
use twinsan::ids::NodeName;
use twinsan_witness::{Witness, WitnessConfig};

use crate::Failure;
use crate::config::{Config, Policy};
use crate::run::log;

/// A witness that cannot answer in this time is taken for lost, however short the node's patience.
const WITHIN_MIN: Duration = Duration::from_millis(100);

/// The arbiter that the configuration names; `None` without a register.
pub(crate) fn build(config: &Config) -> Result<Option<Arc<dyn Arbiter>>, Failure> {
    let partnership = config.partnership();
    if let Some(file) = &config.arbiter.file {
        return Ok(Some(Arc::new(FileArbiter::new(file, partnership))));
    }
    let (Some(address), Some(secret)) = (&config.arbiter.witness, &config.witness_secret) else {
        return Ok(None);
    };
    // The node gives a question up after four times `arbiter_retry`, and its hosts after the verdict bound.
    let mirror = config.mirror();
    let within = (mirror.arbiter_retry * 3).min(mirror.verdict_bound / 4).max(WITHIN_MIN);
    let (address, secret) = (address.clone(), secret.clone());
    Ok(Some(Arc::new(Witness::new(WitnessConfig { address, partnership, secret, within })?)))
}

/// What a status says of the arbiter.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub(crate) struct ArbiterStatus {
    /// `witness`, `file`, or without a register `preferred` or `stop-both`.
    pub(crate) kind: String,
    /// Where the register is.
    pub(crate) place: String,
    /// Was the last question answered? A node asks only when it must know.
    pub(crate) answered: Option<bool>,
    /// How long ago that was, in seconds.
    pub(crate) seconds_ago: u64,
    /// Why it was not answered.
    pub(crate) error: String,
}

impl ArbiterStatus {
    /// For people.
    pub(crate) fn line(&self) -> String {
        let ArbiterStatus { kind, place, answered, seconds_ago, error } = self;
        match (kind.as_str(), answered) {
            ("", _) => String::new(),
            ("witness" | "file", None) => format!("arbiter: {kind} {place}, not asked yet\n"),
            (_, None) => format!("arbiter: none, {kind}\n"),
            (_, Some(true)) => format!("arbiter: {kind} {place}, answered {seconds_ago} s ago\n"),
            (_, Some(false)) => format!("arbiter: {kind} did not answer {seconds_ago} s ago: {error}\n"),
        }
    }
}

/// What came of the last question; clones are the same.
#[derive(Clone)]
pub(crate) struct Answers {
    kind: &'static str,
    place: String,
    last: Arc<Mutex<Option<Last>>>,
}

struct Last {
    at: Instant,
    error: Option<String>,
}

impl Answers {
    pub(crate) fn of(config: &Config) -> Answers {
        let arbiter = &config.arbiter;
        let (kind, place) = match (&arbiter.witness, &arbiter.file) {
            (Some(address), _) => ("witness", address.clone()),
            (None, Some(file)) => ("file", file.display().to_string()),
            (None, None) if matches!(arbiter.policy, Some(Policy::StopBoth)) => ("stop-both", String::new()),
            (None, None) => ("preferred", String::new()),
        };
        Answers { kind, place, last: Arc::default() }
    }

    /// Keeps the outcome of a question, and logs it if it is news.
    pub(crate) fn note(&self, name: NodeName, outcome: &Result<Answer, ArbiterError>) {
        let error = outcome.as_ref().err().map(|error| error.reason.clone());
        let last = self.last.lock().replace(Last { at: Instant::now(), error: error.clone() });
        let before = last.and_then(|last| last.error);
        match (&error, before) {
            (Some(error), before) if before.as_ref() != Some(error) => {
                log(name, &format!("the arbiter does not answer: {error}; asks again until it does"));
            }
            (None, Some(_)) => log(name, "the arbiter answers again"),
            _ => {}
        }
    }

    pub(crate) fn status(&self) -> ArbiterStatus {
        let last = self.last.lock();
        ArbiterStatus {
            kind: self.kind.into(),
            place: self.place.clone(),
            answered: last.as_ref().map(|last| last.error.is_none()),
            seconds_ago: last.as_ref().map_or(0, |last| last.at.elapsed().as_secs()),
            error: last.as_ref().and_then(|last| last.error.clone()).unwrap_or_default(),
        }
    }
}
