//! The class `Core`: one running data plane.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use stagegate_core::{BackendTls, Dataplane, EventKind, ServerTls, Settings, TlsError, Unbound};
use stagegate_table::{pick_for, Decision, PickError, Published, State, Table, TableError, WHOLE};
use stagegate_wire::names::Names;
use stagegate_wire::params::{put, Value};

use crate::inherit;
use crate::mirror::read;
use crate::values::{tuple, Counters, Event, Explanation, ShadowPair, Webhook};

/// A running data plane. Its threads live until `stop`, or until it is collected.
#[pyclass(frozen, module = "gateway._dataplane")]
pub(crate) struct Core {
    // None only while it is dropped.
    plane: Option<Dataplane>,
    published: Arc<Published>,
    process: u32,
}

impl Core {
    /// The data plane, unless this is a child process: threads do not survive a fork.
    fn plane(&self) -> PyResult<&Dataplane> {
        if self.process != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "the data plane cannot be used in a forked process; start it there, or spawn",
            ));
        }
        self.plane
            .as_ref()
            .ok_or_else(|| PyRuntimeError::new_err("the data plane is gone"))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // Stopping would wait for threads that this process does not have.
            std::mem::forget(self.plane.take());
        }
    }
}

fn unusable(error: TlsError) -> PyErr {
    PyValueError::new_err(error.0)
}

fn refused(error: TableError) -> PyErr {
    PyValueError::new_err(error.0)
}

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (settings, inherited, held))]
    fn new(
        py: Python<'_>,
        settings: &Bound<'_, PyAny>,
        inherited: Vec<i32>,
        held: bool,
    ) -> PyResult<Self> {
        let inherited = inherit::listeners(py, inherited)?;
        let settings: Settings = read(settings)?;
        let published = Published::new();
        let shared = Arc::clone(&published);
        let plane = py
            .detach(|| Dataplane::hold(settings, shared, inherited))
            .map_err(|error| {
                let unbound = error
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<Unbound>());
                let number = unbound.and_then(|unbound| unbound.error.raw_os_error());
                let text = error.to_string();
                // With a number Python makes the subclass that fits, such as PermissionError.
                match number.or(error.raw_os_error()) {
                    Some(number) => PyOSError::new_err((number, text)),
                    None => PyOSError::new_err(text),
                }
            })?;
        if !held {
            plane.accept();
        }
        Ok(Self {
            plane: Some(plane),
            published,
            process: std::process::id(),
        })
    }

    /// The bound port; settings may ask for 0.
    #[getter]
    fn inference_port(&self) -> PyResult<u16> {
        Ok(self.plane()?.port())
    }

    /// The bound port of the REST protocol; 0 where it is not served.
    #[getter]
    fn http_port(&self) -> PyResult<u16> {
        Ok(self.plane()?.http_port().unwrap_or(0))
    }

    /// Begin to accept connections; some may wait already.
    fn accept(&self) -> PyResult<()> {
        self.plane()?.accept();
        Ok(())
    }

    /// Descriptors of the listening sockets, for another process to take over.
    fn listeners(&self) -> PyResult<Vec<i32>> {
        Ok(self.plane()?.listeners())
    }

    /// A descriptor that is readable while there are events.
    fn event_fd(&self) -> PyResult<i32> {
        Ok(self.plane()?.events().fd())
    }

    /// Take all events.
    fn drain_events(&self, py: Python<'_>) -> PyResult<Vec<Event>> {
        let plane = self.plane()?;
        let mut events = Vec::new();
        for event in plane.events().drain() {
            let webhook = match event.kind {
                EventKind::Webhook => match plane.webhooks().take(event.id) {
                    Some(notice) => Some(Py::new(py, Webhook::new(py, event.id, notice)?)?),
                    // Its sender is gone.
                    None => continue,
                },
                _ => None,
            };
            events.push(Event {
                kind: event.kind.name().to_owned(),
                model: event.model,
                version: event.version,
                backend: event.backend,
                detail: event.detail,
                webhook,
            });
        }
        Ok(events)
    }

    /// Answer a notice of a registry with an HTTP status, and what is wrong with it; "" where nothing is.
    /// False where nobody waits for the answer any more.
    fn answer_webhook(&self, notice: u64, status: u16, text: String) -> PyResult<bool> {
        let plane = self.plane()?;
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|_| (200..600).contains(&status))
            .ok_or_else(|| PyValueError::new_err(format!("{status} is no status of an answer")))?;
        Ok(plane.webhooks().answer(notice, status, text))
    }

    /// A descriptor that is readable while there are answers of shadows to compare.
    fn shadow_fd(&self) -> PyResult<i32> {
        Ok(self.plane()?.pairs().fd())
    }

    /// Take at most so many answers of shadows, each with the client's.
    fn drain_shadows(&self, py: Python<'_>, most: usize) -> PyResult<Vec<ShadowPair>> {
        let plane = self.plane()?;
        let pairs = py.detach(|| plane.pairs().take(most));
        Ok(pairs
            .into_iter()
            .map(|pair| ShadowPair::new(py, pair))
            .collect())
    }

    /// Swap the whole table in.
    fn publish(&self, py: Python<'_>, snapshot: &Bound<'_, PyAny>) -> PyResult<()> {
        self.plane()?;
        let snapshot = read(snapshot)?;
        py.detach(|| self.published.publish(snapshot))
            .map_err(refused)
    }

    /// Swap a change in.
    fn publish_delta(&self, py: Python<'_>, delta: &Bound<'_, PyAny>) -> PyResult<()> {
        self.plane()?;
        let delta = read(delta)?;
        py.detach(|| self.published.publish_delta(delta))
            .map_err(refused)
    }

    /// What `ServerReady` and the health service say.
    fn set_ready(&self, ready: bool) -> PyResult<()> {
        self.plane()?.set_ready(ready);
        Ok(())
    }

    /// Keep the limits of other settings from now on.
    fn set_limits(&self, settings: &Bound<'_, PyAny>) -> PyResult<()> {
        self.plane()?.set_limits(&read(settings)?);
        Ok(())
    }

    /// Show another certificate to clients that connect from now on.
    fn set_tls(&self, cert: &[u8], key: &[u8], client_ca: &[u8]) -> PyResult<()> {
        let tls = ServerTls::new(cert, key, client_ca).map_err(unusable)?;
        self.plane()?.set_tls(tls);
        Ok(())
    }

    /// Speak TLS with a backend, on connections from now on.
    fn set_backend_tls(
        &self,
        name: &str,
        ca: &[u8],
        cert: &[u8],
        key: &[u8],
        server_name: &str,
    ) -> PyResult<()> {
        let tls = BackendTls::new(ca, cert, key, server_name).map_err(unusable)?;
        self.plane()?.set_backend_tls(name, Some(tls));
        Ok(())
    }

    /// Speak plaintext with a backend, on connections from now on.
    fn clear_backend_tls(&self, name: &str) -> PyResult<()> {
        self.plane()?.set_backend_tls(name, None);
        Ok(())
    }

    /// All counters, over all threads.
    fn counters(&self, py: Python<'_>) -> PyResult<Counters> {
        self.plane()?;
        let counters = py.detach(|| self.published.counters());
        Counters::new(py, counters)
    }

    /// How a request with these names would be answered, by the code that answers requests.
    fn explain(
        &self,
        py: Python<'_>,
        model: &str,
        version: &str,
        draw: u32,
        headers: Vec<(String, String)>,
        parameters: Vec<(String, String)>,
    ) -> PyResult<Explanation> {
        self.plane()?;
        if draw >= WHOLE {
            return Err(PyValueError::new_err(format!(
                "draw must be between 0 and {}",
                WHOLE - 1
            )));
        }
        let table = self.published.load();
        let mut said = Vec::new();
        for (name, value) in parameters {
            put(&mut said, name.as_bytes(), Value::Text(value.as_bytes()));
        }
        let names = Names {
            parameters: &said,
            ..Names::of(model.as_bytes(), version.as_bytes())
        };
        explain(py, &table, names, &header_map(headers)?, draw)
    }

    /// Not ready, no new connections, finish what runs, close what is left at the timeout. Returns at
    /// once; `drained` tells.
    fn drain(&self, timeout_ms: u64) -> PyResult<()> {
        self.plane()?.drain(Duration::from_millis(timeout_ms));
        Ok(())
    }

    /// Whether a drain was asked for and no client connection is left.
    fn drained(&self) -> PyResult<bool> {
        Ok(self.plane()?.drained())
    }

    /// Close everything and wait for the threads to end. Idempotent.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let plane = self.plane()?;
        py.detach(|| plane.stop());
        Ok(())
    }
}

/// Until when (unix seconds) a certificate is valid that can be shown to clients.
#[pyfunction]
pub(crate) fn check_tls(cert: &[u8], key: &[u8], client_ca: &[u8]) -> PyResult<i64> {
    ServerTls::new(cert, key, client_ca)
        .map(|tls| tls.not_after())
        .map_err(unusable)
}

/// Until when (unix seconds) the own certificate is valid that can be shown to a backend; 0 for none.
#[pyfunction]
pub(crate) fn check_backend_tls(
    ca: &[u8],
    cert: &[u8],
    key: &[u8],
    server_name: &str,
) -> PyResult<i64> {
    BackendTls::new(ca, cert, key, server_name)
        .map(|tls| tls.not_after().unwrap_or(0))
        .map_err(unusable)
}

fn header_map(pairs: Vec<(String, String)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let wrong = |what: &str| PyValueError::new_err(format!("{what} of a header: {name:?}"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("not the name"))?;
        let value = HeaderValue::from_str(&value).map_err(|_| wrong("not the value"))?;
        headers.append(key, value);
    }
    Ok(headers)
}

fn explain(
    py: Python<'_>,
    table: &Table,
    names: Names<'_>,
    headers: &HeaderMap,
    draw: u32,
) -> PyResult<Explanation> {
    let (picked, decision) = match pick_for(table, names, headers, || draw) {
        Ok(found) => found,
        Err(error) => return refusal(py, &error),
    };
    let backend = |id: &u32| table.backend(*id).map(|backend| backend.name.to_string());
    Ok(Explanation {
        model: picked.model.name.to_string(),
        version: picked.version.id.to_string(),
        arm: picked.arm_name().to_owned(),
        state: picked.version.state.word().to_owned(),
        backends: tuple(py, picked.version.backends.iter().filter_map(backend))?,
        reference_kind: picked.reference.word().to_owned(),
        code: 0,
        message: match &picked.version.state {
            State::Failed(reason) => reason.to_string(),
            State::Ready | State::Cold => String::new(),
        },
        decided_by: decision.word().to_owned(),
        rule: match decision {
            Decision::Rule(at) => u32::try_from(at).ok(),
            _ => None,
        },
        bucket: match decision {
            Decision::Bucket(bucket, _) => Some(bucket),
            _ => None,
        },
    })
}

fn refusal(py: Python<'_>, error: &PickError) -> PyResult<Explanation> {
    Ok(Explanation {
        model: error
            .model
            .as_ref()
            .map_or_else(String::new, |model| model.name.to_string()),
        version: String::new(),
        arm: String::new(),
        state: String::new(),
        backends: tuple(py, std::iter::empty::<String>())?,
        reference_kind: String::new(),
        code: error.code(),
        message: error.message.clone(),
        decided_by: String::new(),
        rule: None,
        bucket: None,
    })
}
