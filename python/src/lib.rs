//! The simulator for Python: a world of two nodes that scripts drive by hand, or by plans.
//!
//! The stubs in `twinsan/_twinsan.pyi` say the same as the signatures here; a test compares them. What a script
//! does is written down as a plan with its times, so that a story that went wrong can be kept and run again.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

mod cluster;
mod words;

create_exception!(twinsan, ClusterError, PyException, "A call could not be done.");
create_exception!(twinsan, Unfinished, ClusterError, "It did not finish in time: nobody may serve.");
create_exception!(twinsan, Refused, ClusterError, "A node refused the request for good.");
create_exception!(twinsan, Broken, ClusterError, "A promise was broken: a bug was found.");
create_exception!(twinsan, PlanError, PyValueError, "A plan that cannot be read.");

/// The module `twinsan._twinsan`.
#[pymodule]
fn _twinsan(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("ClusterError", py.get_type::<ClusterError>())?;
    module.add("Unfinished", py.get_type::<Unfinished>())?;
    module.add("Refused", py.get_type::<Refused>())?;
    module.add("Broken", py.get_type::<Broken>())?;
    module.add("PlanError", py.get_type::<PlanError>())?;
    module.add_class::<cluster::Cluster>()?;
    module.add_class::<cluster::State>()
}
