//! One logical model as a request sees it: everything that can be made beforehand is made.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use once_cell::race::OnceBox;
use stagegate_wire::encode::{len_size, put_len};

use crate::assign::Assignment;
use crate::cell::{ArmCell, ModelCell, VersionCell};
use crate::gate::UNBOUNDED;
use crate::grammar::Reference;
use crate::pick::RefKind;

/// Versions up to which a list is searched from end to end; longer ones have a sorted index.
pub(crate) const LINEAR: usize = 8;

/// Last rank in the queue of a model that has no priority levels in Triton.
pub const LOWEST: u32 = 16;

/// Triton's default of `max_sequence_idle_microseconds`.
const SEQUENCE_IDLE: Duration = Duration::from_secs(1);

/// What can be done with a version now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Forward to one of its backends.
    Ready,
    /// Ask for a load and wait.
    Cold,
    /// It cannot be loaded, for this reason.
    Failed(Box<str>),
}

impl State {
    /// The word that the control plane uses.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Cold => "cold",
            Self::Failed(_) => "failed",
        }
    }
}

/// One version of a model.
#[derive(Debug)]
pub struct Version {
    /// The concrete version id that answers carry.
    pub id: Box<str>,
    /// What can be done with it now.
    pub state: State,
    /// Ids of the backends that have it ready; at least one where it is ready.
    pub backends: Box<[u32]>,
    /// Triton's model name for it.
    pub backend_model: Box<str>,
    /// Triton's version number in text, empty for Triton's own choice.
    pub backend_version: Box<str>,
    /// Appended to requests: Triton's names.
    pub request_tail: Bytes,
    /// Appended to answers: the logical name and this version.
    pub answer_tail: Bytes,
    /// This version in the metadata of answers; percent-encoded where it is not ASCII.
    pub version_header: HeaderValue,
    /// A `ModelMetadataResponse` made from the contract, or empty.
    ///
    /// Names and versions in it mean nothing, so versions of one contract share it.
    pub metadata: Arc<[u8]>,
    /// What lives on when the model is published again.
    pub cell: Arc<VersionCell>,
    /// What Triton said of it; `None` where it said nothing, as of one that was never loaded.
    pub(crate) terms: Option<Box<Terms>>,
    pub(crate) stream_tail: OnceBox<Bytes>,
}

/// How Triton takes requests of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Requests that all its copies work on at once; 0 where not known.
    pub(crate) capacity: u32,
    /// Priority levels of the model in Triton; 0 for none.
    pub(crate) priority_levels: u32,
    /// Level of requests that name none.
    pub(crate) default_priority: u32,
    /// Time after which an idle sequence is over, in microseconds; 0 for Triton's default.
    pub(crate) sequence_idle_us: u64,
    /// Longest wait in Triton's queue by the model's own policy, in microseconds; 0 for no bound.
    pub(crate) queue_timeout_us: u64,
    /// Whether a request's `timeout` may make that shorter.
    pub(crate) timeout_override: bool,
}

/// Of a version of which Triton said nothing.
const UNSAID: Terms = Terms {
    capacity: 0,
    priority_levels: 0,
    default_priority: 0,
    sequence_idle_us: 0,
    queue_timeout_us: 0,
    timeout_override: false,
};

impl Version {
    /// How long a request may wait in the queue, by Triton's policy for the model: its own time, which the
    /// request's `timeout` in microseconds can only shorten, and only where the policy allows that.
    #[must_use]
    pub fn longest_wait(&self, timeout_us: u64) -> Option<Duration> {
        let terms = self.terms.as_deref()?;
        let micros = match timeout_us {
            1.. if terms.timeout_override => timeout_us.min(terms.queue_timeout_us),
            _ => terms.queue_timeout_us,
        };
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// The rank of a request's `priority` in the queue; lower ones go first.
    ///
    /// As in Triton: 1 is the highest level, and 0 or a level that the model does not have means its
    /// default. A model without levels has the default just behind level 1 here, and all levels from
    /// [`LOWEST`] on are one.
    #[must_use]
    pub fn rank(&self, priority: u64) -> u32 {
        let known = u32::try_from(priority).unwrap_or(u32::MAX);
        let terms = self.terms();
        match (known, terms.priority_levels) {
            (0, 0) => 2,
            (_, 0) => known.min(LOWEST),
            (1.., levels) if known <= levels => known,
            _ => terms.default_priority,
        }
    }

    /// Appended to a `ModelStreamInferResponse` that has an `infer_response`; made at first use.
    pub fn stream_tail(&self) -> &Bytes {
        self.stream_tail.get_or_init(|| {
            let mut out = BytesMut::with_capacity(len_size(2, self.answer_tail.len()));
            put_len(&mut out, 2, &self.answer_tail);
            Box::new(out.freeze())
        })
    }

    /// Time after which an idle sequence is over.
    #[must_use]
    pub fn sequence_idle(&self) -> Duration {
        match self.terms().sequence_idle_us {
            0 => SEQUENCE_IDLE,
            micros => Duration::from_micros(micros),
        }
    }

    /// Let as much through as those of its backends work on that are not passed over; to be called when
    /// that has changed.
    pub fn fit_gate(&self) {
        let capacity = self.terms().capacity;
        let all = self.backends.len();
        let capacity = match all - self.cell.health.ejected_among(&self.backends) {
            // Where all are passed over nothing is let through anyway but trials.
            0 => capacity,
            up if up == all || capacity == UNBOUNDED => capacity,
            up => share(capacity, up, all),
        };
        self.cell.gate.set_capacity(capacity);
    }

    pub(crate) fn terms(&self) -> &Terms {
        self.terms.as_deref().unwrap_or(&UNSAID)
    }
}

/// What `up` of `all` copies work on that work on `capacity` together; 0 only where that is not known.
fn share(capacity: u32, up: usize, all: usize) -> u32 {
    let share = (u64::from(capacity) * up as u64).div_ceil(all.max(1) as u64);
    u32::try_from(share).unwrap_or(capacity)
}

/// One target of a split.
#[derive(Debug)]
pub struct Arm {
    /// `stable`, `canary` or the operator's word.
    pub name: Box<str>,
    /// Its place in [`Model::versions`].
    pub version: u32,
    /// Hundredths of a percent.
    pub weight: u32,
    /// Draws below this, and not below the arm before, go here.
    pub(crate) until: u32,
    /// The arm in the metadata of answers.
    pub header: HeaderValue,
    /// What lives on when the model is published again.
    pub cell: Arc<ArmCell>,
}

/// One target of copies.
#[derive(Debug)]
pub struct Shadow {
    /// The operator's word, which no arm has.
    pub name: Box<str>,
    /// Its place in [`Model::versions`].
    pub version: u32,
    /// Draws below this are copied; at most [`crate::WHOLE`].
    pub sample: u32,
    /// Its name in the metadata of copies.
    pub header: HeaderValue,
    /// What lives on when the model is published again.
    pub cell: Arc<ArmCell>,
}

/// A movable name of a version, sorted by kind and name.
#[derive(Debug)]
pub(crate) struct Pointer {
    pub(crate) kind: RefKind,
    pub(crate) name: Box<str>,
    pub(crate) version: u32,
}

/// What a reference names: a place in the versions or in the pointers of a model. Two references are
/// the same if their targets are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: RefKind,
    pub(crate) at: u32,
}

/// One logical model.
#[derive(Debug)]
pub struct Model {
    /// The logical name.
    pub name: Box<str>,
    /// In the registry's order, oldest first.
    pub versions: Box<[Arc<Version>]>,
    /// The split; empty where no request without a reference can be answered.
    pub arms: Box<[Arm]>,
    /// Default deadline of unary calls, where it differs from the gateway's.
    pub deadline: Option<Duration>,
    /// Why there are no arms, for the client.
    pub unroutable: Box<str>,
    /// Who gets copies of what the split answers.
    pub shadows: Box<[Shadow]>,
    /// What lives on when the model is published again.
    pub cell: Arc<ModelCell>,
    pub(crate) pointers: Box<[Pointer]>,
    pub(crate) split_reference: Box<str>,
    pub(crate) split: Option<Target>,
    /// None where the split has one arm.
    pub(crate) assignment: Option<Box<Assignment>>,
    pub(crate) sorted: Box<[u32]>,
    /// Which failures of an arm another one answers.
    pub fallback: Option<Box<Fallback>>,
}

/// Failures of arms that one arm answers instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// gRPC status codes, one bit each.
    codes: u32,
    /// The place of the arm that answers in [`Model::arms`].
    pub(crate) to: u32,
}

/// gRPC status names by code.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Fallback {
    /// The name that is no failure's, where one is given.
    pub(crate) fn new(names: &[String], to: u32) -> Result<Self, String> {
        let mut codes = 0;
        for name in names {
            match CODES.iter().position(|known| known == name) {
                Some(code) if code > 0 => codes |= 1 << code,
                _ => return Err(format!("{name:?} is no gRPC status of a failure")),
            }
        }
        Ok(Self { codes, to })
    }

    /// Whether a failure with that gRPC code is answered by the other arm.
    #[must_use]
    pub fn takes(&self, code: u8) -> bool {
        code < 32 && self.codes & (1 << code) != 0
    }
}

impl Model {
    /// The version of that id.
    #[must_use]
    pub fn version(&self, id: &str) -> Option<&Arc<Version>> {
        self.versions.get(self.version_at(id)? as usize)
    }

    /// The arm of that name.
    #[must_use]
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| *arm.name == *name)
    }

    /// The arm that answers where another one fails with that gRPC code.
    #[must_use]
    pub fn fallback_of(&self, code: u8) -> Option<&Arm> {
        let fallback = self
            .fallback
            .as_ref()
            .filter(|fallback| fallback.takes(code))?;
        self.arms.get(fallback.to as usize)
    }

    /// The version that an arm of this model names.
    #[must_use]
    pub fn arm_version(&self, arm: &Arm) -> &Arc<Version> {
        &self.versions[arm.version as usize]
    }

    /// The shadow of that name.
    #[must_use]
    pub fn shadow(&self, name: &str) -> Option<&Shadow> {
        self.shadows.iter().find(|shadow| *shadow.name == *name)
    }

    /// The version that a shadow of this model names.
    #[must_use]
    pub fn shadow_version(&self, shadow: &Shadow) -> &Arc<Version> {
        &self.versions[shadow.version as usize]
    }

    /// Aliases and stages: kind, name (aliases without `@`) and version id.
    pub fn pointers(&self) -> impl Iterator<Item = (RefKind, &str, &str)> {
        self.pointers
            .iter()
            .map(|p| (p.kind, &*p.name, &*self.versions[p.version as usize].id))
    }

    pub(crate) fn version_at(&self, id: &str) -> Option<u32> {
        let at = if self.sorted.is_empty() {
            self.versions
                .iter()
                .position(|version| *version.id == *id)?
        } else {
            let key = |at: &u32| &*self.versions[*at as usize].id;
            self.sorted[self.sorted.binary_search_by_key(&id, key).ok()?] as usize
        };
        u32::try_from(at).ok()
    }

    fn pointer_at(&self, kind: RefKind, name: &str) -> Option<Target> {
        let key = |pointer: &Pointer| pointer.cmp_key(kind, name);
        let at = self.pointers.binary_search_by(key).ok()?;
        Some(Target {
            kind,
            at: u32::try_from(at).ok()?,
        })
    }

    /// A version id, else an alias, else a stage in any case; only an alias after an `@`.
    pub(crate) fn resolve(&self, reference: &Reference<'_>) -> Option<Target> {
        if reference.alias_only {
            return self.pointer_at(RefKind::Alias, reference.name);
        }
        if let Some(at) = self.version_at(reference.name) {
            return Some(Target {
                kind: RefKind::Version,
                at,
            });
        }
        if self.pointers.is_empty() {
            return None;
        }
        self.pointer_at(RefKind::Alias, reference.name)
            .or_else(|| self.pointer_at(RefKind::Stage, &lower_case(reference.name)))
    }

    pub(crate) fn version_of(&self, target: Target) -> &Arc<Version> {
        let at = match target.kind {
            RefKind::Alias | RefKind::Stage => self.pointers[target.at as usize].version,
            RefKind::Split | RefKind::Version => target.at,
        };
        &self.versions[at as usize]
    }
}

/// Stages are written in any case; mostly in lower case, which costs nothing.
fn lower_case(text: &str) -> Cow<'_, str> {
    if text
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.to_lowercase())
}

impl Pointer {
    pub(crate) fn cmp_key(&self, kind: RefKind, name: &str) -> std::cmp::Ordering {
        (self.kind, &*self.name).cmp(&(kind, name))
    }
}
