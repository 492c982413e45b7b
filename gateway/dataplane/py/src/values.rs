//! What Python gets back: frozen values, compared and shown like dataclasses.

// The constructors that pyo3 makes have an argument a field.
#![allow(clippy::too_many_arguments)]

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use stagegate_table::counters::{self, Buckets};

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[pyclass(frozen, get_all, new = "from_fields", module = "gateway._dataplane")]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
        }

        #[pymethods]
        impl $name {
            fn __eq__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
                let Ok(other) = other.cast::<Self>() else { return Ok(false) };
                $(if !slf.getattr(stringify!($field))?.eq(other.getattr(stringify!($field))?)? {
                    return Ok(false);
                })*
                Ok(true)
            }

            fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
                let fields = [$(
                    format!("{}={}", stringify!($field), slf.getattr(stringify!($field))?.repr()?),
                )*];
                Ok(format!("{}({})", stringify!($name), fields.join(", ")))
            }
        })*
    };
}

values! {
    /// Something that the control plane should know. `kind` is `cold`, `backend_down`, `backend_up`,
    /// `ejected`, `recovered` or `webhook`; fields that a kind does not use are empty.
    Event {
        kind: String,
        model: String,
        version: String,
        backend: String,
        detail: String,
        webhook: Option<Py<Webhook>>,
    }

    /// A notice that was posted for a registry. `headers` are pairs of a name in lower case and a value,
    /// each name once.
    Webhook { id: u64, registry: String, headers: Py<PyTuple>, body: Py<PyBytes> }

    /// Requests of one model, version and arm. `codes` has 17 numbers, one a gRPC status code, of ended
    /// requests; `buckets` has 16, not cumulative, of times in the gateway.
    ArmCounters {
        model: String,
        version: String,
        arm: String,
        codes: Py<PyTuple>,
        buckets: Py<PyTuple>,
        sum_us: u64,
        inflight: u64,
    }

    /// Time that one backend took for one version.
    BackendCounters {
        model: String,
        version: String,
        backend: String,
        buckets: Py<PyTuple>,
        sum_us: u64,
    }

    /// Time that requests waited for one version. `waiting` of them wait for its load now, `queued` for a
    /// place among the `limit` that its backends are given; `rejected` has one number a reason. `sequences`
    /// are open on it now.
    QueueCounters {
        model: String,
        version: String,
        buckets: Py<PyTuple>,
        sum_us: u64,
        waiting: u64,
        queued: u64,
        rejected: Py<PyTuple>,
        limit: u64,
        sequences: u64,
    }

    /// Time to the first answer of streams, and between their answers.
    StreamCounters {
        model: String,
        version: String,
        arm: String,
        first_buckets: Py<PyTuple>,
        first_sum_us: u64,
        inter_buckets: Py<PyTuple>,
        inter_sum_us: u64,
        requests: u64,
        responses: u64,
        errors: u64,
    }

    /// Copies of one model, version and shadow. `results` has a number for each of `SHADOW_RESULTS`,
    /// `uncompared` one for each of `UNCOMPARED`.
    ShadowCounters {
        model: String,
        version: String,
        shadow: String,
        results: Py<PyTuple>,
        uncompared: Py<PyTuple>,
    }

    /// Two answers to one request: the client's, and the shadow's. Each is a serialised
    /// `ModelInferResponse` as its backend gave it.
    ShadowPair {
        model: String,
        version: String,
        shadow: String,
        shadow_version: String,
        request: String,
        primary: Py<PyBytes>,
        copy: Py<PyBytes>,
    }

    /// Requests of one version that were sent to a backend once more, by reason.
    RetryCounters { model: String, version: String, reason: String, count: u64 }

    /// Requests that one arm failed and another answered; `codes` as in `ArmCounters`, of the failures.
    FallbackCounters { model: String, version: String, arm: String, codes: Py<PyTuple> }

    /// A backend that is passed over for one version now, since when, and until it is tried again.
    EjectedCounters {
        model: String,
        version: String,
        backend: String,
        reason: String,
        since_ms: u64,
        retry_ms: u64,
    }

    /// All counters at one moment.
    Counters {
        revision: u64,
        arms: Py<PyTuple>,
        backends: Py<PyTuple>,
        queues: Py<PyTuple>,
        streams: Py<PyTuple>,
        connections: u64,
        events_dropped: u64,
        messages_received: u64,
        messages_sent: u64,
        shadows: Py<PyTuple>,
        retries: Py<PyTuple>,
        fallbacks: Py<PyTuple>,
        ejected: Py<PyTuple>,
        sequences_forgotten: u64,
    }

    /// How a request would be answered. `code` is 0 where it resolves, else a gRPC status code.
    /// `decided_by` is `pinned`, `only`, `forced`, `rule`, `bucket` or `chance`, with the number of the rule
    /// or the bucket.
    Explanation {
        model: String,
        version: String,
        arm: String,
        state: String,
        backends: Py<PyTuple>,
        reference_kind: String,
        code: u8,
        message: String,
        decided_by: String,
        rule: Option<u32>,
        bucket: Option<u32>,
    }
}

/// A tuple of anything.
pub(crate) fn tuple<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
) -> PyResult<Py<PyTuple>> {
    let items: Vec<T> = items.into_iter().collect();
    Ok(PyTuple::new(py, items)?.unbind())
}

fn buckets(py: Python<'_>, time: &Buckets) -> PyResult<Py<PyTuple>> {
    tuple(py, time.counts)
}

/// A tuple of values made from a list.
fn tuple_of<T, V>(
    py: Python<'_>,
    items: Vec<T>,
    make: impl Fn(T) -> PyResult<V>,
) -> PyResult<Py<PyTuple>>
where
    V: pyo3::PyClass + Into<pyo3::PyClassInitializer<V>>,
{
    let values = items.into_iter().map(|item| Py::new(py, make(item)?));
    tuple(py, values.collect::<PyResult<Vec<_>>>()?)
}

impl Counters {
    pub(crate) fn new(py: Python<'_>, read: counters::Counters) -> PyResult<Self> {
        Ok(Self {
            revision: read.revision,
            arms: tuple_of(py, read.arms, |arm| arm_counters(py, arm))?,
            backends: tuple_of(py, read.backends, |backend| backend_counters(py, backend))?,
            queues: tuple_of(py, read.queues, |queue| queue_counters(py, queue))?,
            streams: tuple_of(py, read.streams, |stream| stream_counters(py, stream))?,
            connections: read.connections,
            events_dropped: read.events_dropped,
            messages_received: read.messages_received,
            messages_sent: read.messages_sent,
            shadows: tuple_of(py, read.shadows, |shadow| shadow_counters(py, shadow))?,
            retries: tuple_of(py, read.retries, |retry| Ok(retry_counters(retry)))?,
            fallbacks: tuple_of(py, read.fallbacks, |one| fallback_counters(py, one))?,
            ejected: tuple_of(py, read.ejected, |one| Ok(ejected_counters(one)))?,
            sequences_forgotten: read.sequences_forgotten,
        })
    }
}

fn arm_counters(py: Python<'_>, arm: counters::ArmCounters) -> PyResult<ArmCounters> {
    Ok(ArmCounters {
        model: arm.model,
        version: arm.version,
        arm: arm.arm,
        codes: tuple(py, arm.codes)?,
        buckets: buckets(py, &arm.time)?,
        sum_us: arm.time.sum_micros,
        inflight: arm.inflight,
    })
}

fn retry_counters(retry: counters::RetryCounters) -> RetryCounters {
    RetryCounters {
        model: retry.model,
        version: retry.version,
        reason: retry.reason.to_owned(),
        count: retry.count,
    }
}

fn fallback_counters(
    py: Python<'_>,
    fallback: counters::FallbackCounters,
) -> PyResult<FallbackCounters> {
    Ok(FallbackCounters {
        model: fallback.model,
        version: fallback.version,
        arm: fallback.arm,
        codes: tuple(py, fallback.codes)?,
    })
}

fn ejected_counters(ejected: counters::EjectedCounters) -> EjectedCounters {
    EjectedCounters {
        model: ejected.model,
        version: ejected.version,
        backend: ejected.backend,
        reason: ejected.reason,
        since_ms: ejected.since_ms,
        retry_ms: ejected.retry_ms,
    }
}

fn backend_counters(
    py: Python<'_>,
    backend: counters::BackendCounters,
) -> PyResult<BackendCounters> {
    Ok(BackendCounters {
        model: backend.model,
        version: backend.version,
        backend: backend.backend,
        buckets: buckets(py, &backend.time)?,
        sum_us: backend.time.sum_micros,
    })
}

fn queue_counters(py: Python<'_>, queue: counters::QueueCounters) -> PyResult<QueueCounters> {
    Ok(QueueCounters {
        model: queue.model,
        version: queue.version,
        buckets: buckets(py, &queue.time)?,
        sum_us: queue.time.sum_micros,
        waiting: queue.waiting,
        queued: queue.queued,
        rejected: tuple(py, queue.rejected)?,
        limit: queue.limit,
        sequences: queue.sequences,
    })
}

fn stream_counters(py: Python<'_>, stream: counters::StreamCounters) -> PyResult<StreamCounters> {
    Ok(StreamCounters {
        model: stream.model,
        version: stream.version,
        arm: stream.arm,
        first_buckets: buckets(py, &stream.first)?,
        first_sum_us: stream.first.sum_micros,
        inter_buckets: buckets(py, &stream.inter)?,
        inter_sum_us: stream.inter.sum_micros,
        requests: stream.requests,
        responses: stream.responses,
        errors: stream.errors,
    })
}

fn shadow_counters(py: Python<'_>, shadow: counters::ShadowCounters) -> PyResult<ShadowCounters> {
    Ok(ShadowCounters {
        model: shadow.model,
        version: shadow.version,
        shadow: shadow.shadow,
        results: tuple(py, shadow.totals.results)?,
        uncompared: tuple(py, shadow.totals.uncompared)?,
    })
}

impl Webhook {
    pub(crate) fn new(py: Python<'_>, id: u64, notice: stagegate_core::Webhook) -> PyResult<Self> {
        Ok(Self {
            id,
            registry: notice.registry,
            headers: tuple(py, notice.headers)?,
            body: PyBytes::new(py, &notice.body).unbind(),
        })
    }
}

impl ShadowPair {
    pub(crate) fn new(py: Python<'_>, pair: stagegate_core::Pair) -> Self {
        Self {
            model: pair.model,
            version: pair.version,
            shadow: pair.shadow,
            shadow_version: pair.shadow_version,
            request: pair.request,
            primary: PyBytes::new(py, &pair.primary).unbind(),
            copy: PyBytes::new(py, &pair.copy).unbind(),
        }
    }
}
