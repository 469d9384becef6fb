//! Python's words for the engine's types, and its errors.

use pyo3::PyErr;
use pyo3::exceptions::PyValueError;
use twinsan::arbiter::Arbitration;
use twinsan::ids::NodeName;
use twinsan::mirror::message::PeerPhase;
use twinsan::sim::cluster::ApiError;
use twinsan::sim::plan::PlanError;

/// Phases by their names.
const PHASES: [(&str, PeerPhase); 8] = [
    ("starting", PeerPhase::Starting),
    ("paired", PeerPhase::Paired),
    ("deciding", PeerPhase::Deciding),
    ("alone", PeerPhase::Alone),
    ("lost", PeerPhase::Lost),
    ("target", PeerPhase::Target),
    ("joined", PeerPhase::Joined),
    ("stopped", PeerPhase::Stopped),
];

pub(crate) fn node(name: &str) -> Result<NodeName, PyErr> {
    match name {
        "a" => Ok(NodeName::A),
        "b" => Ok(NodeName::B),
        _ => Err(PyValueError::new_err(format!("no node {name:?}; the nodes are \"a\" and \"b\""))),
    }
}

pub(crate) fn arbitration(name: &str) -> Result<Arbitration, PyErr> {
    match name {
        "register" => Ok(Arbitration::Register),
        "preferred" => Ok(Arbitration::Preferred),
        "stop-both" => Ok(Arbitration::StopBoth),
        _ => Err(PyValueError::new_err("arbitration is \"register\", \"preferred\" or \"stop-both\"")),
    }
}

pub(crate) fn phase(name: &str) -> Result<PeerPhase, PyErr> {
    let found = PHASES.iter().find(|(known, _)| *known == name);
    let names = PHASES.map(|(known, _)| known).join(", ");
    found.map(|(_, phase)| *phase).ok_or_else(|| PyValueError::new_err(format!("a phase is one of {names}")))
}

pub(crate) fn phase_name(phase: PeerPhase) -> &'static str {
    PHASES.iter().find(|(_, known)| *known == phase).map_or("unknown", |(name, _)| name)
}

pub(crate) fn error(error: ApiError) -> PyErr {
    let text = error.to_string();
    match error {
        ApiError::Unfinished(_) => crate::Unfinished::new_err(text),
        ApiError::Refused => crate::Refused::new_err(text),
        ApiError::Broken(..) => crate::Broken::new_err(text),
        _ => crate::ClusterError::new_err(text),
    }
}

pub(crate) fn plan_error(error: PlanError) -> PyErr {
    let cause = std::error::Error::source(&error).map(|source| format!(": {source}"));
    crate::PlanError::new_err(format!("{error}{}", cause.unwrap_or_default()))
}
