//! From the names in a request to one version: the grammar, the references and the weighted draw.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use stagegate_wire::names::Names;
use stagegate_wire::text::{cut, MAX_TEXT};

use crate::assign::{Caller, Decision};
use crate::grammar::{self, quote, Asked, Reference};
use crate::model::{Arm, Model, Target, Version};
use crate::table::Table;
use crate::{PINNED, WHOLE};

/// Most references that a message about an unknown version lists.
const LISTED: usize = 8;

/// How a request came to its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefKind {
    /// By the route's split.
    Split,
    /// By a version id.
    Version,
    /// By an alias.
    Alias,
    /// By a stage.
    Stage,
}

impl RefKind {
    /// In one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Version => "version",
            Self::Alias => "alias",
            Self::Stage => "stage",
        }
    }
}

/// The version that answers a request.
#[derive(Debug, Clone, Copy)]
pub struct Pick<'t> {
    /// The logical model.
    pub model: &'t Arc<Model>,
    /// The concrete version; look at its state first.
    pub version: &'t Arc<Version>,
    /// The arm that was drawn, or None for a pinned version.
    pub arm: Option<&'t Arm>,
    /// How it was named.
    pub reference: RefKind,
}

impl<'t> Pick<'t> {
    /// The arm's label: its name, or `pinned`.
    #[must_use]
    pub fn arm_name(&self) -> &'t str {
        self.arm.map_or(PINNED, |arm| &arm.name)
    }

    /// The arm in the metadata of answers.
    #[must_use]
    pub fn arm_header(&self) -> HeaderValue {
        self.arm
            .map_or(HeaderValue::from_static(PINNED), |arm| arm.header.clone())
    }

    /// The pick that a stream made before, on today's table: the same arm while it has weight.
    #[must_use]
    pub fn on_arm(table: &'t Table, model: &str, arm: &str) -> Option<Self> {
        let model = table.model(model.as_bytes())?;
        let arm = model.arm(arm).filter(|arm| arm.weight > 0)?;
        let version = model.arm_version(arm);
        Some(Self {
            model,
            version,
            arm: Some(arm),
            reference: RefKind::Split,
        })
    }
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickErrorKind {
    /// A name or a reference that cannot be one.
    Malformed,
    /// There is no such model.
    UnknownModel,
    /// The model has no such version, alias or stage.
    UnknownVersion,
    /// Name and version field name different things.
    Disagree,
    /// The route has no arm of the name that the request insists on.
    UnknownArm,
    /// The model is there, but its route has no arms.
    Unroutable,
}

/// Why no version was picked, for the client.
#[derive(Debug, Clone)]
pub struct PickError {
    /// What kind of refusal it is.
    pub kind: PickErrorKind,
    /// At most 4 KiB.
    pub message: String,
    /// The model that was named, where it exists: what the refusal counts under.
    pub model: Option<Arc<Model>>,
}

impl PickError {
    /// The gRPC status code.
    #[must_use]
    pub fn code(&self) -> u8 {
        const INVALID_ARGUMENT: u8 = 3;
        const NOT_FOUND: u8 = 5;
        const FAILED_PRECONDITION: u8 = 9;
        match self.kind {
            PickErrorKind::Malformed | PickErrorKind::Disagree | PickErrorKind::UnknownArm => {
                INVALID_ARGUMENT
            }
            PickErrorKind::UnknownModel | PickErrorKind::UnknownVersion => NOT_FOUND,
            PickErrorKind::Unroutable => match &self.model {
                // Triton's code for a model without versions.
                Some(model) if model.versions.is_empty() => NOT_FOUND,
                _ => FAILED_PRECONDITION,
            },
        }
    }

    fn new(kind: PickErrorKind, message: &str, model: Option<&Arc<Model>>) -> Self {
        Self {
            kind,
            message: cut(message, MAX_TEXT).to_owned(),
            model: model.cloned(),
        }
    }
}

/// Resolve the names of a request that says nothing else of itself: [`pick_for`] without a caller.
///
/// # Errors
/// What to answer instead, as [`PickError`].
pub fn pick<'t>(
    table: &'t Table,
    model: &[u8],
    version: &[u8],
    draw: impl FnOnce() -> u32,
) -> Result<Pick<'t>, PickError> {
    resolve(table, Names::of(model, version), None, draw).map(|(pick, _)| pick)
}

/// Resolve the names of a request, and tell what decided on its arm.
///
/// `draw` is called at most once, and only where the split has a choice; it gives 0 to 9,999.
///
/// # Errors
/// What to answer instead, as [`PickError`].
pub fn pick_for<'t>(
    table: &'t Table,
    names: Names<'_>,
    headers: &HeaderMap,
    draw: impl FnOnce() -> u32,
) -> Result<(Pick<'t>, Decision), PickError> {
    let caller = Caller {
        headers,
        parameters: names.parameters,
    };
    resolve(table, names, Some(caller), draw)
}

/// The model that a request names and the reference outside the split that it names it by, empty for the
/// split. `None` where it names none that there is.
#[must_use]
pub fn named<'t, 'a>(table: &'t Table, names: Names<'a>) -> Option<(&'t Arc<Model>, &'a str)> {
    let asked = grammar::parse(names.model, names.version).ok()?;
    let model = table.model(asked.model)?;
    let text = match reference(model, &asked).ok()? {
        Some(reference) if !enters_split(model, &reference) => reference.text,
        _ => "",
    };
    Some((model, text))
}

fn enters_split(model: &Model, reference: &Reference<'_>) -> bool {
    match model.resolve(reference) {
        Some(target) => model.split == Some(target),
        None => *reference.text == *model.split_reference,
    }
}

fn resolve<'t>(
    table: &'t Table,
    names: Names<'_>,
    caller: Option<Caller<'_>>,
    draw: impl FnOnce() -> u32,
) -> Result<(Pick<'t>, Decision), PickError> {
    let asked = grammar::parse(names.model, names.version)
        .map_err(|message| PickError::new(PickErrorKind::Malformed, &message, None))?;
    let model = table
        .model(asked.model)
        .ok_or_else(|| unknown_model(table, asked.model))?;
    let Some(reference) = reference(model, &asked)? else {
        return split(model, caller, draw);
    };
    match model.resolve(&reference) {
        Some(target) if model.split == Some(target) => split(model, caller, draw),
        Some(target) => {
            let pick = Pick {
                model,
                version: model.version_of(target),
                arm: None,
                reference: target.kind,
            };
            Ok((pick, Decision::Pinned))
        }
        None if *reference.text == *model.split_reference => split(model, caller, draw),
        None => Err(unknown_version(model, &reference)),
    }
}

/// The one reference of a request, given once or twice.
fn reference<'a>(
    model: &Arc<Model>,
    asked: &Asked<'a>,
) -> Result<Option<Reference<'a>>, PickError> {
    let (Some(first), Some(second)) = (asked.in_name, asked.in_version) else {
        return Ok(asked.in_name.or(asked.in_version));
    };
    let same = first.text == second.text || {
        let target: Option<Target> = model.resolve(&first);
        target.is_some() && target == model.resolve(&second)
    };
    if same {
        return Ok(Some(first));
    }
    let message = format!(
        "model_name '{}@{}' and model_version {} name different versions; give one of the two",
        model.name,
        first.text,
        quote(second.text.as_bytes()),
    );
    Err(PickError::new(
        PickErrorKind::Disagree,
        &message,
        Some(model),
    ))
}

fn split<'t>(
    model: &'t Arc<Model>,
    caller: Option<Caller<'_>>,
    draw: impl FnOnce() -> u32,
) -> Result<(Pick<'t>, Decision), PickError> {
    let (arm, decision) = match &*model.arms {
        [] => return Err(unroutable(model)),
        [arm] => (arm, Decision::Only),
        [first, ..] => {
            if let Some(assigned) = assigned(model, caller)? {
                assigned
            } else {
                let draw = draw() % WHOLE;
                let drawn = model.arms.iter().find(|arm| draw < arm.until);
                (drawn.unwrap_or(first), Decision::Chance)
            }
        }
    };
    let pick = Pick {
        model,
        version: model.arm_version(arm),
        arm: Some(arm),
        reference: RefKind::Split,
    };
    Ok((pick, decision))
}

/// The arm that a request has by what it says of itself.
fn assigned<'t>(
    model: &'t Arc<Model>,
    caller: Option<Caller<'_>>,
) -> Result<Option<(&'t Arm, Decision)>, PickError> {
    let (Some(caller), Some(assignment)) = (caller, &model.assignment) else {
        return Ok(None);
    };
    let decided = assignment
        .decide(caller, &model.arms)
        .map_err(|name| unknown_arm(model, &name))?;
    Ok(decided.and_then(|(at, decision)| Some((model.arms.get(at)?, decision))))
}

fn unknown_arm(model: &Arc<Model>, name: &str) -> PickError {
    let arms: Vec<&str> = model.arms.iter().map(|arm| &*arm.name).collect();
    let message = format!(
        "model '{}' has no arm {}, which stagegate-arm asks for; there are {}",
        model.name,
        quote(name.as_bytes()),
        arms.join(", ")
    );
    PickError::new(PickErrorKind::UnknownArm, &message, Some(model))
}

fn unknown_model(table: &Table, name: &[u8]) -> PickError {
    let name = String::from_utf8_lossy(name);
    let mut message = format!("Request for unknown model: '{name}' is not found");
    let near = table.nearest(&name);
    if !near.is_empty() {
        let _ = write!(message, "; near it: '{}'", near.join("', '"));
    }
    PickError::new(PickErrorKind::UnknownModel, &message, None)
}

fn unknown_version(model: &Arc<Model>, reference: &Reference<'_>) -> PickError {
    let mut message = format!(
        "Request for unknown model: '{}' version {} is not found",
        model.name, reference.text
    );
    let all = model.pointers.len() + model.versions.len();
    let pointers = model.pointers().map(|(kind, name, _)| match kind {
        RefKind::Alias => format!("@{name}"),
        _ => name.to_owned(),
    });
    let versions = model
        .versions
        .iter()
        .rev()
        .map(|version| version.id.to_string());
    let listed: Vec<String> = pointers
        .take(LISTED / 2)
        .chain(versions)
        .take(LISTED)
        .collect();
    if listed.is_empty() {
        message.push_str("; it has no versions");
    } else {
        let _ = write!(message, "; there are {}", listed.join(", "));
    }
    if listed.len() < all {
        let _ = write!(message, " and {} more", all - listed.len());
    }
    PickError::new(PickErrorKind::UnknownVersion, &message, Some(model))
}

fn unroutable(model: &Arc<Model>) -> PickError {
    let mut message = format!(
        "Request for unknown model: '{}' has no available versions",
        model.name
    );
    if !model.unroutable.is_empty() {
        let _ = write!(message, ": {}", model.unroutable);
    }
    PickError::new(PickErrorKind::Unroutable, &message, Some(model))
}
