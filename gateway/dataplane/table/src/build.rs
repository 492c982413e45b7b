//! From a checked [`ModelSpec`] to a [`Model`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use once_cell::race::OnceBox;
use stagegate_wire::encode::{len_size, put_len};
use stagegate_wire::text::{cut, encode_message};

use crate::assign::{Assignment, Given};
use crate::backends::ByName;
use crate::cell::{ArmCell, ModelCell, VersionCell};
use crate::grammar::{is_model_name, is_reference, Reference};
use crate::model::{Arm, Fallback, Model, Pointer, Shadow, State, Terms, Version, LINEAR};
use crate::pick::RefKind;
use crate::spec::{ArmSpec, ModelSpec, PointerSpec, ShadowSpec, VersionSpec};
use crate::{TableError, PINNED, WHOLE};

/// Most bytes of a reason that is kept for clients.
const MAX_REASON: usize = 2048;

/// Build a model, with the cells of `old` wherever the same thing goes on.
pub(crate) fn model(
    spec: ModelSpec,
    backends: &ByName,
    old: Option<&Arc<Model>>,
) -> Result<Model, TableError> {
    let name = spec.name;
    if !is_model_name(name.as_bytes()) {
        return Err(TableError(format!(
            "model name {:?} is not allowed",
            cut(&name, 80)
        )));
    }
    let fail = |what: String| TableError(format!("model {name:?}: {what}"));
    let versions = versions(spec.versions, &name, backends, old).map_err(fail)?;
    let mut model = Model {
        sorted: sorted(&versions),
        versions,
        arms: Box::new([]),
        deadline: (spec.deadline_ms > 0).then(|| Duration::from_millis(spec.deadline_ms)),
        unroutable: cut(&spec.unroutable, MAX_REASON).into(),
        shadows: Box::new([]),
        fallback: None,
        cell: old.map_or_else(
            || Arc::new(ModelCell::default()),
            |old| Arc::clone(&old.cell),
        ),
        pointers: Box::new([]),
        split_reference: "".into(),
        split: None,
        assignment: None,
        name: name.as_str().into(),
    };
    model.pointers = pointers(&model, spec.pointers).map_err(fail)?;
    model.arms = arms(&model, spec.arms, old).map_err(fail)?;
    let given = Given {
        sticky: spec.sticky,
        salt: spec.salt,
        buckets: spec.buckets,
        rules: spec.rules,
        arm_header: spec.arm_header,
    };
    model.assignment = Assignment::build(&model.name, given, &model.arms).map_err(fail)?;
    model.fallback = fallback(&model, &spec.fallback_codes, &spec.fallback_to).map_err(fail)?;
    model.shadows = shadows(&model, spec.shadows, old).map_err(fail)?;
    if !spec.split_reference.is_empty() {
        let reference = Reference::parse(&spec.split_reference).ok_or_else(|| {
            fail(format!(
                "split_reference {:?} is malformed",
                spec.split_reference
            ))
        })?;
        model.split = model.resolve(&reference);
        model.split_reference = spec.split_reference.into();
    }
    Ok(model)
}

fn versions(
    specs: Vec<VersionSpec>,
    model: &str,
    backends: &ByName,
    old: Option<&Arc<Model>>,
) -> Result<Box<[Arc<Version>]>, String> {
    let mut seen = HashSet::with_capacity(specs.len());
    for spec in &specs {
        if !seen.insert(spec.version.as_str()) {
            return Err(format!("version {:?} is given twice", spec.version));
        }
    }
    let mut built: Vec<Arc<Version>> = Vec::with_capacity(specs.len());
    for spec in specs {
        let version = version(spec, model, backends, old, built.last())?;
        built.push(Arc::new(version));
    }
    Ok(built.into())
}

/// Metadata in the memory of the version before, where that one's is the same.
fn shared(before: Option<&Arc<Version>>, metadata: Vec<u8>) -> Arc<[u8]> {
    match before {
        Some(before) if *before.metadata == *metadata => Arc::clone(&before.metadata),
        _ => metadata.into(),
    }
}

fn version(
    spec: VersionSpec,
    model: &str,
    backends: &ByName,
    old: Option<&Arc<Model>>,
    before: Option<&Arc<Version>>,
) -> Result<Version, String> {
    let id = spec.version;
    if !is_reference(&id) || id.starts_with('@') {
        return Err(format!("version id {:?} is malformed", cut(&id, 80)));
    }
    let ids = backend_ids(&id, &spec.backends, backends)?;
    let state = state(&id, &spec.state, &spec.reason)?;
    if state == State::Ready && ids.is_empty() {
        return Err(format!("version {id:?} is ready but has no backend"));
    }
    if state != State::Ready && !ids.is_empty() {
        return Err(format!(
            "version {id:?} is {} but has backends",
            state.word()
        ));
    }
    if spec.backend_model.is_empty() {
        return Err(format!("version {id:?} has no backend_model"));
    }
    let cell = old.and_then(|old| old.version(&id)).map(|old| {
        forget_moved(old, &ids);
        Arc::clone(&old.cell)
    });
    let (request_tail, answer_tail) =
        tails((&spec.backend_model, &spec.backend_version), (model, &id));
    let version_header = header(&id, &answer_tail)?;
    let metadata = shared(before, spec.metadata);
    let terms = Terms {
        capacity: spec.capacity,
        priority_levels: spec.priority_levels,
        default_priority: spec.default_priority,
        sequence_idle_us: spec.sequence_idle_us,
        queue_timeout_us: spec.queue_timeout_us,
        timeout_override: spec.timeout_override,
    };
    Ok(Version {
        id: id.into(),
        state,
        backends: ids,
        backend_model: spec.backend_model.into(),
        backend_version: spec.backend_version.into(),
        request_tail,
        answer_tail,
        version_header,
        metadata,
        terms: (terms != Terms::default()).then(|| Box::new(terms)),
        cell: cell.unwrap_or_else(|| Arc::new(VersionCell::default())),
        stream_tail: OnceBox::new(),
    })
}

/// What was known of a backend that comes or goes says nothing of the next time that it has the version.
fn forget_moved(old: &Version, now: &[u32]) {
    for id in old.cell.health.known() {
        if !(old.backends.contains(&id) && now.contains(&id)) {
            old.cell.health.forget(id);
        }
    }
}

fn backend_ids(id: &str, names: &[String], backends: &ByName) -> Result<Box<[u32]>, String> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let backend = backends
            .get(name.as_str())
            .ok_or_else(|| format!("version {id:?} names backend {name:?}, which is not there"))?;
        if ids.contains(&backend.id) {
            return Err(format!("version {id:?} names backend {name:?} twice"));
        }
        ids.push(backend.id);
    }
    Ok(ids.into())
}

fn state(id: &str, word: &str, reason: &str) -> Result<State, String> {
    match word {
        "ready" => Ok(State::Ready),
        "cold" => Ok(State::Cold),
        "failed" => Ok(State::Failed(cut(reason, MAX_REASON).into())),
        _ => Err(format!(
            "version {id:?} has state {word:?}, not ready, cold or failed"
        )),
    }
}

/// Both tails of a version, in one allocation: there are very many versions.
fn tails(request: (&str, &str), answer: (&str, &str)) -> (Bytes, Bytes) {
    let size = |names: (&str, &str)| len_size(1, names.0.len()) + len_size(2, names.1.len());
    let mut out = Vec::with_capacity(size(request) + size(answer));
    for (model, version) in [request, answer] {
        put_len(&mut out, 1, model.as_bytes());
        put_len(&mut out, 2, version.as_bytes());
    }
    let both = Bytes::from(out);
    (both.slice(..size(request)), both.slice(size(request)..))
}

/// The version id as a header value; an ASCII one is the end of the answer's tail.
fn header(id: &str, answer_tail: &Bytes) -> Result<HeaderValue, String> {
    let value = if id.is_ascii() {
        answer_tail.slice(answer_tail.len() - id.len()..)
    } else {
        encode_message(id)
    };
    HeaderValue::from_maybe_shared(value)
        .map_err(|_| format!("version id {id:?} cannot be a header value"))
}

fn sorted(versions: &[Arc<Version>]) -> Box<[u32]> {
    if versions.len() <= LINEAR {
        return Box::new([]);
    }
    let mut order: Vec<u32> = (0..versions.len() as u32).collect();
    order.sort_unstable_by_key(|&at| &*versions[at as usize].id);
    order.into()
}

fn pointers(model: &Model, specs: Vec<PointerSpec>) -> Result<Box<[Pointer]>, String> {
    let mut pointers = Vec::with_capacity(specs.len());
    for spec in specs {
        let kind = match spec.kind.as_str() {
            "alias" => RefKind::Alias,
            "stage" => RefKind::Stage,
            other => return Err(format!("pointer kind {other:?} is not alias or stage")),
        };
        let word = kind.word();
        if !is_reference(&spec.name) {
            return Err(format!("{word} {:?} is malformed", cut(&spec.name, 80)));
        }
        if kind == RefKind::Stage && spec.name != spec.name.to_lowercase() {
            return Err(format!("stage {:?} is not in lower case", spec.name));
        }
        let version = model.version_at(&spec.version).ok_or_else(|| {
            format!(
                "{word} {:?} points to version {:?}, which is not there",
                spec.name, spec.version
            )
        })?;
        pointers.push(Pointer {
            kind,
            name: spec.name.into(),
            version,
        });
    }
    pointers.sort_unstable_by(|a, b| a.cmp_key(b.kind, &b.name));
    for pair in pointers.windows(2) {
        if pair[0].kind == pair[1].kind && pair[0].name == pair[1].name {
            return Err(format!(
                "{} {:?} is given twice",
                pair[0].kind.word(),
                pair[0].name
            ));
        }
    }
    Ok(pointers.into())
}

fn arms(
    model: &Model,
    specs: Vec<ArmSpec>,
    old: Option<&Arc<Model>>,
) -> Result<Box<[Arm]>, String> {
    let total: u64 = specs.iter().map(|spec| u64::from(spec.weight)).sum();
    if !specs.is_empty() && total != u64::from(WHOLE) {
        return Err(format!(
            "the weights of its arms sum to {total}, not {WHOLE}"
        ));
    }
    let mut arms: Vec<Arm> = Vec::with_capacity(specs.len());
    let mut until = 0;
    for spec in specs {
        let name = spec.name;
        if arms.iter().any(|arm| *arm.name == *name) {
            return Err(format!("arm {name:?} is given twice"));
        }
        if name == PINNED {
            return Err(format!("an arm cannot be called {PINNED:?}"));
        }
        let header = arm_header(&name)?;
        let version = model.version_at(&spec.version).ok_or_else(|| {
            format!(
                "arm {name:?} names version {:?}, which is not there",
                spec.version
            )
        })?;
        until += spec.weight;
        let cell = old.and_then(|old| arm_cell(old, &name, &spec.version));
        arms.push(Arm {
            name: name.into(),
            version,
            weight: spec.weight,
            until,
            header,
            cell: cell.unwrap_or_else(|| Arc::new(ArmCell::default())),
        });
    }
    Ok(arms.into())
}

fn arm_cell(old: &Model, name: &str, version: &str) -> Option<Arc<ArmCell>> {
    let arm = old.arm(name)?;
    (*old.arm_version(arm).id == *version).then(|| Arc::clone(&arm.cell))
}

fn arm_header(name: &str) -> Result<HeaderValue, String> {
    // Nearly all arms have one of these names: no allocation for them, and no shared count to bump.
    for usual in ["stable", "canary"] {
        if name == usual {
            return Ok(HeaderValue::from_static(usual));
        }
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(word) {
        return Err(format!("arm name {:?} is not allowed", cut(name, 80)));
    }
    let mut value = BytesMut::with_capacity(name.len());
    value.put_slice(name.as_bytes());
    HeaderValue::from_maybe_shared(value.freeze())
        .map_err(|_| format!("arm name {name:?} cannot be a header value"))
}

/// Where the arm is not in force now, nobody answers instead: its weight went to another one meanwhile.
fn fallback(model: &Model, codes: &[String], to: &str) -> Result<Option<Box<Fallback>>, String> {
    let Some(at) = model.arms.iter().position(|arm| *arm.name == *to) else {
        return Ok(None);
    };
    let fallback =
        Fallback::new(codes, at as u32).map_err(|why| format!("fallback_codes: {why}"))?;
    Ok((!codes.is_empty()).then(|| Box::new(fallback)))
}

fn shadows(
    model: &Model,
    specs: Vec<ShadowSpec>,
    old: Option<&Arc<Model>>,
) -> Result<Box<[Shadow]>, String> {
    let mut shadows: Vec<Shadow> = Vec::with_capacity(specs.len());
    for spec in specs {
        let name = spec.name;
        if model.arm(&name).is_some() || shadows.iter().any(|shadow| *shadow.name == *name) {
            return Err(format!(
                "shadow {name:?} has the name of an arm or of another shadow"
            ));
        }
        if name == PINNED {
            return Err(format!("a shadow cannot be called {PINNED:?}"));
        }
        if spec.sample > WHOLE {
            return Err(format!(
                "shadow {name:?} samples {} of {WHOLE}",
                spec.sample
            ));
        }
        let header = arm_header(&name)?;
        let version = model.version_at(&spec.version).ok_or_else(|| {
            format!(
                "shadow {name:?} names version {:?}, which is not there",
                spec.version
            )
        })?;
        let cell = old.and_then(|old| shadow_cell(old, &name, &spec.version));
        shadows.push(Shadow {
            name: name.into(),
            version,
            sample: spec.sample,
            header,
            cell: cell.unwrap_or_else(|| Arc::new(ArmCell::default())),
        });
    }
    Ok(shadows.into())
}

fn shadow_cell(old: &Model, name: &str, version: &str) -> Option<Arc<ArmCell>> {
    let shadow = old.shadow(name)?;
    (*old.shadow_version(shadow).id == *version).then(|| Arc::clone(&shadow.cell))
}
