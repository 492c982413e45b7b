//! Structs that Python hands over: any object with attributes of these names and types will do.

use std::fmt;

use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString, PyTuple};
use stagegate_core::{Secret, Settings};
use stagegate_table::spec::{
    ArmSpec, BackendSpec, BucketRunSpec, ConditionSpec, Delta, MatchRuleSpec, ModelSpec,
    PointerSpec, ShadowSpec, Snapshot, VersionSpec,
};

/// What is wrong with a value, and where in the struct it stands.
pub(crate) struct Problem {
    path: String,
    kind: Kind,
}

enum Kind {
    Missing(&'static str),
    Wrong {
        expected: &'static str,
        found: String,
    },
    OutOfRange(&'static str),
    Raised(PyErr),
}

impl Problem {
    fn within(mut self, outer: fmt::Arguments<'_>) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{outer}{dot}{}", self.path);
        self
    }

    fn into_error(self, root: &str) -> PyErr {
        let path = format!("{root}.{}", self.path);
        match self.kind {
            Kind::Missing(of) => {
                PyAttributeError::new_err(format!("{path} is missing: a {of} has this field"))
            }
            Kind::Wrong { expected, found } => {
                PyTypeError::new_err(format!("{path} must be {expected}, not {found}"))
            }
            Kind::OutOfRange(range) => PyValueError::new_err(format!("{path} must be {range}")),
            Kind::Raised(error) => error,
        }
    }
}

impl From<PyErr> for Problem {
    fn from(error: PyErr) -> Self {
        Self {
            path: String::new(),
            kind: Kind::Raised(error),
        }
    }
}

/// Read a struct.
///
/// # Errors
/// `AttributeError`, `TypeError` or `ValueError` that names the field by its path from `T`.
pub(crate) fn read<T: Mirror>(source: &Bound<'_, PyAny>) -> PyResult<T> {
    T::read(source).map_err(|problem| problem.into_error(T::NAME))
}

/// A struct with the same fields in Python.
pub(crate) trait Mirror: Sized {
    const NAME: &'static str;
    const FIELDS: &'static [&'static str];

    fn read(source: &Bound<'_, PyAny>) -> Result<Self, Problem>;
}

/// A type that a field can have.
trait Value: Sized {
    fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem>;
}

// The struct expression names every field, so the compiler keeps these lists complete.
macro_rules! mirrors {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        $(impl Mirror for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn read(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
                Ok($name {
                    $($field: {
                        let name = intern!(source.py(), stringify!($field));
                        field(source, name, stringify!($field), stringify!($name))?
                    },)*
                })
            }
        }

        impl Value for $name {
            fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
                <Self as Mirror>::read(source)
            }
        })*

        /// Every struct and its fields.
        pub(crate) const ALL: &[(&str, &[&str])] = &[$(($name::NAME, $name::FIELDS)),*];
    };
}

mirrors! {
    BackendSpec { name, address, http }
    VersionSpec {
        version, state, backends, backend_model, backend_version, reason, metadata, capacity,
        priority_levels, default_priority, sequence_idle_us, queue_timeout_us, timeout_override,
    }
    PointerSpec { kind, name, version }
    ArmSpec { name, version, weight }
    ShadowSpec { name, version, sample }
    ConditionSpec { kind, name, value }
    MatchRuleSpec { conditions, arm }
    BucketRunSpec { arm, length }
    ModelSpec {
        name, versions, pointers, arms, split_reference, deadline_ms, unroutable, sticky, salt,
        buckets, rules, arm_header, shadows, fallback_codes, fallback_to,
    }
    Snapshot { revision, backends, models }
    Delta {
        base_revision, revision, put_backends, drop_backends, put_models, drop_models,
    }
    Settings {
        host, port, threads, max_message, max_streams, max_header_list, max_frame,
        max_connections, upstream_connections, queue_per_model, default_deadline_ms,
        handshake_timeout_ms, idle_timeout_ms, inflate_ratio, allow, server_name, server_version,
        replay, answer_timeout_ms, resets_per_second, connections_per_address, max_connection_age_ms,
        tls_cert, tls_key, tls_client_ca,
        shadow_queue, shadow_concurrency, shadow_bytes, shadow_deadline_ms, shadow_lag_ms,
        shadow_busy_percent,
        cancels_per_second,
        max_buffered,
        http_host, http_port,
    }
}

fn field<T: Value>(
    source: &Bound<'_, PyAny>,
    interned: &Bound<'_, PyString>,
    name: &'static str,
    of: &'static str,
) -> Result<T, Problem> {
    let found = source.getattr(interned).map_err(|error| {
        if error.is_instance_of::<PyAttributeError>(source.py()) {
            Problem {
                path: name.to_owned(),
                kind: Kind::Missing(of),
            }
        } else {
            error.into()
        }
    })?;
    T::value(&found).map_err(|problem| problem.within(format_args!("{name}")))
}

fn wrong(expected: &'static str, found: &Bound<'_, PyAny>) -> Problem {
    let found = found
        .get_type()
        .name()
        .map_or_else(|_| "another type".to_owned(), |n| n.to_string());
    Problem {
        path: String::new(),
        kind: Kind::Wrong { expected, found },
    }
}

impl Value for String {
    fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
        let text = source
            .cast::<PyString>()
            .map_err(|_| wrong("a str", source))?;
        Ok(text.to_cow()?.into_owned())
    }
}

impl Value for Vec<u8> {
    fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
        let bytes = source
            .cast::<PyBytes>()
            .map_err(|_| wrong("bytes", source))?;
        Ok(bytes.as_bytes().to_vec())
    }
}

impl Value for Secret {
    fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
        Vec::value(source).map(Self)
    }
}

impl Value for bool {
    fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
        let truth = source
            .cast::<PyBool>()
            .map_err(|_| wrong("a bool", source))?;
        Ok(truth.is_true())
    }
}

macro_rules! numbers {
    ($($type:ident: $range:literal),*) => {
        $(impl Value for $type {
            fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
                let number = source.cast::<PyInt>().map_err(|_| wrong("an int", source))?;
                number.extract().map_err(|_: PyErr| Problem {
                    path: String::new(),
                    kind: Kind::OutOfRange($range),
                })
            }
        })*
    };
}

numbers! {
    u16: "between 0 and 65535",
    u32: "between 0 and 4294967295",
    u64: "between 0 and 2**64 - 1",
    usize: "between 0 and 2**64 - 1"
}

/// Elements of a tuple or list; a str is no list of strings.
macro_rules! lists {
    ($($type:ident),*) => {
        $(impl Value for Vec<$type> {
            fn value(source: &Bound<'_, PyAny>) -> Result<Self, Problem> {
                list(source)
            }
        })*
    };
}

lists!(
    String,
    BackendSpec,
    VersionSpec,
    PointerSpec,
    ArmSpec,
    ConditionSpec,
    MatchRuleSpec,
    BucketRunSpec,
    ShadowSpec,
    ModelSpec
);

fn list<T: Value>(source: &Bound<'_, PyAny>) -> Result<Vec<T>, Problem> {
    let element = |(at, element): (usize, Bound<'_, PyAny>)| {
        T::value(&element).map_err(|problem| problem.within(format_args!("[{at}]")))
    };
    if let Ok(tuple) = source.cast::<PyTuple>() {
        tuple.iter().enumerate().map(element).collect()
    } else if let Ok(list) = source.cast::<PyList>() {
        list.iter().enumerate().map(element).collect()
    } else {
        Err(wrong("a tuple or list", source))
    }
}
