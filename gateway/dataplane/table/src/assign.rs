//! Which arm of a split a request gets: by a header that forces it, by a rule, by a key, else by chance.
//!
//! A key is hashed into one of [`WHOLE`] buckets, and a table says whose each bucket is. The control plane
//! keeps the tables of routes, so that a change of weights hands over no more buckets than it must.

use http::{HeaderMap, HeaderName};
use stagegate_wire::params::{find, Value};
use stagegate_wire::text::cut;

use crate::model::Arm;
use crate::siphash::{siphash, Key};
use crate::spec::{BucketRunSpec, ConditionSpec, MatchRuleSpec};
use crate::{PINNED, WHOLE};

/// Request header with a sticky key, for any split; it beats the route's own key.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("stagegate-key");
/// Request header that names an arm, where the route is open for it.
pub const ARM_HEADER: HeaderName = HeaderName::from_static("stagegate-arm");

/// What a request says of itself beside its names.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Its metadata.
    pub headers: &'a HeaderMap,
    /// Its parameters, as [`stagegate_wire::names::Names`] has them.
    pub parameters: &'a [u8],
}

/// What decided on the arm of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It named a version outside the split.
    Pinned,
    /// There is one arm only.
    Only,
    /// The header that forces an arm.
    Forced,
    /// The match rule of that number, from 0.
    Rule(usize),
    /// The bucket of its key; whether the key was the one of [`KEY_HEADER`].
    Bucket(u32, bool),
    /// The weights, by chance.
    Chance,
}

impl Decision {
    /// In one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pinned => PINNED,
            Self::Only => "only",
            Self::Forced => "forced",
            Self::Rule(_) => "rule",
            Self::Bucket(..) => "bucket",
            Self::Chance => "chance",
        }
    }
}

/// Where a route's own key comes from.
#[derive(Debug)]
enum Sticky {
    Nowhere,
    Header(HeaderName),
    Parameter(Box<str>),
}

/// One match rule: all of its conditions hold, or it does not fit.
#[derive(Debug)]
struct Rule {
    headers: Box<[(HeaderName, Box<str>)]>,
    parameters: Box<[(Box<str>, Box<str>)]>,
    arm: u32,
}

/// Buckets below `until`, and not below the run before, belong to `arm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    until: u16,
    arm: u16,
}

/// How the requests of one split find their arms, other than by chance.
#[derive(Debug)]
pub(crate) struct Assignment {
    rules: Box<[Rule]>,
    runs: Box<[Run]>,
    sticky: Sticky,
    key: Key,
    arm_header: bool,
}

/// What of a model's spec is about assignment.
pub(crate) struct Given {
    pub(crate) sticky: String,
    pub(crate) salt: String,
    pub(crate) buckets: Vec<BucketRunSpec>,
    pub(crate) rules: Vec<MatchRuleSpec>,
    pub(crate) arm_header: bool,
}

impl Assignment {
    /// `None` where there is nothing to decide: one arm, and no way to another.
    pub(crate) fn build(
        model: &str,
        given: Given,
        arms: &[Arm],
    ) -> Result<Option<Box<Self>>, String> {
        let runs = if given.buckets.is_empty() {
            by_weight(arms)
        } else {
            checked_runs(given.buckets, arms)?
        };
        let rules: Result<Box<[Rule]>, String> = given
            .rules
            .into_iter()
            .map(|rule| Rule::build(rule, arms))
            .collect();
        let (rules, sticky) = (rules?, Sticky::parse(&given.sticky)?);
        if arms.len() < 2 {
            return Ok(None);
        }
        let salt = if given.salt.is_empty() {
            model
        } else {
            &given.salt
        };
        Ok(Some(Box::new(Self {
            rules,
            runs,
            sticky,
            key: Key::of(salt),
            arm_header: given.arm_header,
        })))
    }

    /// The place of a request's arm and what decided on it; `None` leaves it to chance.
    ///
    /// # Errors
    /// The arm that the request forces does not exist; gives its name.
    pub(crate) fn decide(
        &self,
        caller: Caller<'_>,
        arms: &[Arm],
    ) -> Result<Option<(usize, Decision)>, String> {
        if self.arm_header {
            if let Some(name) = caller.headers.get(ARM_HEADER) {
                return match arms
                    .iter()
                    .position(|arm| arm.name.as_bytes() == name.as_bytes())
                {
                    Some(at) => Ok(Some((at, Decision::Forced))),
                    None => Err(String::from_utf8_lossy(name.as_bytes()).into_owned()),
                };
            }
        }
        let fitting = self.rules.iter().position(|rule| rule.fits(caller));
        if let Some(at) = fitting {
            return Ok(Some((self.rules[at].arm as usize, Decision::Rule(at))));
        }
        Ok(self.bucket(caller).map(|(bucket, given)| {
            let at = self
                .runs
                .partition_point(|run| u32::from(run.until) <= bucket);
            let arm = self.runs.get(at).map_or(0, |run| usize::from(run.arm));
            (arm, Decision::Bucket(bucket, given))
        }))
    }

    /// The bucket of a request's key, and whether the key came in [`KEY_HEADER`]. An empty key is none.
    fn bucket(&self, caller: Caller<'_>) -> Option<(u32, bool)> {
        let header = |name: &HeaderName| {
            let value = caller.headers.get(name)?.as_bytes();
            (!value.is_empty()).then(|| self.bucket_of(value))
        };
        if let Some(bucket) = header(&KEY_HEADER) {
            return Some((bucket, true));
        }
        let bucket = match &self.sticky {
            Sticky::Nowhere => None,
            Sticky::Header(name) => header(name),
            Sticky::Parameter(name) => match find(caller.parameters, name.as_bytes())? {
                Value::Text(b"") => None,
                value => Some(value.with_text(|text| self.bucket_of(text))),
            },
        };
        Some((bucket?, false))
    }

    fn bucket_of(&self, key: &[u8]) -> u32 {
        let hash = siphash(self.key, key);
        // The product's high half is below WHOLE, and as even as the hash is.
        ((u128::from(hash) * u128::from(WHOLE)) >> 64) as u32
    }
}

impl Sticky {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text.is_empty() => Ok(Self::Nowhere),
            Some(("header", name)) => Ok(Self::Header(header_name(name)?)),
            Some(("parameter", name)) if !name.is_empty() => Ok(Self::Parameter(name.into())),
            _ => Err(format!(
                "sticky {:?} is neither header:NAME nor parameter:NAME",
                cut(text, 80)
            )),
        }
    }
}

impl Rule {
    fn build(spec: MatchRuleSpec, arms: &[Arm]) -> Result<Self, String> {
        let (mut headers, mut parameters) = (Vec::new(), Vec::new());
        for condition in spec.conditions {
            let ConditionSpec { kind, name, value } = condition;
            match kind.as_str() {
                "header" => headers.push((header_name(&name)?, value.into())),
                "parameter" => parameters.push((name.into(), value.into())),
                _ => return Err(format!("a condition of kind {kind:?} is not known")),
            }
        }
        if headers.is_empty() && parameters.is_empty() {
            return Err(format!(
                "a match rule to arm {:?} has no condition",
                spec.arm
            ));
        }
        Ok(Self {
            headers: headers.into(),
            parameters: parameters.into(),
            arm: u32::from(arm_at(arms, &spec.arm)?),
        })
    }

    fn fits(&self, caller: Caller<'_>) -> bool {
        let has_header = |(name, value): &(HeaderName, Box<str>)| {
            let mut given = caller.headers.get_all(name).iter();
            given.any(|given| given.as_bytes() == value.as_bytes())
        };
        let has_parameter = |(name, value): &(Box<str>, Box<str>)| {
            find(caller.parameters, name.as_bytes())
                .is_some_and(|given| given.with_text(|text| text == value.as_bytes()))
        };
        self.headers.iter().all(has_header) && self.parameters.iter().all(has_parameter)
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("{:?} is no name of a header", cut(text, 80)))
}

fn arm_at(arms: &[Arm], name: &str) -> Result<u16, String> {
    arms.iter()
        .position(|arm| *arm.name == *name)
        .and_then(|at| u16::try_from(at).ok())
        .ok_or_else(|| format!("arm {:?} is named and not there", cut(name, 80)))
}

/// Each arm's buckets in one piece, in the order of the arms.
fn by_weight(arms: &[Arm]) -> Box<[Run]> {
    let weighted = arms.iter().enumerate().filter(|(_, arm)| arm.weight > 0);
    weighted
        .map(|(at, arm)| Run {
            until: arm.until as u16,
            arm: at as u16,
        })
        .collect()
}

fn checked_runs(specs: Vec<BucketRunSpec>, arms: &[Arm]) -> Result<Box<[Run]>, String> {
    let mut owned = vec![0u64; arms.len()];
    let mut runs = Vec::with_capacity(specs.len());
    let mut until = 0;
    for spec in specs {
        let arm = arm_at(arms, &spec.arm)?;
        owned[usize::from(arm)] += u64::from(spec.length);
        until += u64::from(spec.length);
        if spec.length == 0 || until > u64::from(WHOLE) {
            return Err(format!("the runs of its buckets are not {WHOLE} in all"));
        }
        runs.push(Run {
            until: until as u16,
            arm,
        });
    }
    for (arm, owned) in arms.iter().zip(owned) {
        if owned != u64::from(arm.weight) {
            return Err(format!(
                "arm {:?} has {owned} buckets and weight {}",
                arm.name, arm.weight
            ));
        }
    }
    Ok(runs.into())
}
