//! The Python extension `gateway._dataplane`; only `gateway/bridge.py` imports it.
//!
//! - [`core`]: the class `Core`, a running data plane.
//! - [`inherit`]: listening sockets that another process handed over.
//! - [`mirror`]: the structs that Python hands over, read by the names of their fields.
//! - [`values`]: what Python gets back.
//!
//! The threads of the data plane never attach to Python, and nothing of Python is kept by them.

mod core;
mod inherit;
mod mirror;
mod values;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Of what Rust allocates; Python and its other extensions keep theirs. Five percent fewer instructions a
/// request than with the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The fields of every struct that Python hands over, in the order of the Rust side.
#[pyfunction]
fn struct_fields(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let fields = PyDict::new(py);
    for (name, names) in mirror::ALL {
        fields.set_item(name, PyTuple::new(py, *names)?)?;
    }
    Ok(fields)
}

/// The data plane of Stagegate.
#[pymodule(gil_used = false)]
#[pyo3(name = "_dataplane")]
mod extension {
    #[pymodule_export]
    use super::core::{check_backend_tls, check_tls, Core};
    #[pymodule_export]
    use super::struct_fields;
    #[pymodule_export]
    use super::values::{
        ArmCounters, BackendCounters, Counters, EjectedCounters, Event, Explanation,
        FallbackCounters, QueueCounters, RetryCounters, ShadowCounters, ShadowPair, StreamCounters,
        Webhook,
    };
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    use pyo3::prelude::*;
    use pyo3::types::PyTuple;
    use stagegate_table::counters::{ShadowResult, Uncompared, BOUNDS_MICROS};
    use stagegate_table::gate::Reason;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add(
            "BUCKET_BOUNDS_US",
            PyTuple::new(module.py(), BOUNDS_MICROS)?,
        )?;
        module.add(
            "REJECTION_REASONS",
            PyTuple::new(module.py(), Reason::ALL.map(Reason::word))?,
        )?;
        let results = ShadowResult::ALL.map(ShadowResult::word);
        module.add("SHADOW_RESULTS", PyTuple::new(module.py(), results)?)?;
        let uncompared = Uncompared::ALL.map(Uncompared::word);
        module.add("UNCOMPARED", PyTuple::new(module.py(), uncompared)?)
    }
}
