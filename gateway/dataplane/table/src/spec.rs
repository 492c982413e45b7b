//! The routing table as it crosses from Python: the same structs as in `router/traffic/table.py`, with
//! the same fields in the same order. `tests/bridge` compares the two.

/// One Triton endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackendSpec {
    /// Its name in the configuration; what [`VersionSpec::backends`] refers to.
    pub name: String,
    /// `host:port` of its gRPC endpoint.
    pub address: String,
    /// `host:port` of its HTTP endpoint, for REST requests; empty where none is known.
    pub http: String,
}

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionSpec {
    /// The concrete version id that answers carry.
    pub version: String,
    /// `ready`, `cold` or `failed`.
    pub state: String,
    /// Names of the backends that have it ready; empty unless `ready`.
    pub backends: Vec<String>,
    /// Triton's model name for it.
    pub backend_model: String,
    /// Triton's version number in text, empty for Triton's own choice.
    pub backend_version: String,
    /// Why it failed, for the client; empty unless `failed`.
    pub reason: String,
    /// A serialised `ModelMetadataResponse` under the logical name, or empty.
    pub metadata: Vec<u8>,
    /// Requests that all its copies work on at once; 0 where not known, 2**32 - 1 for no bound.
    pub capacity: u32,
    /// Priority levels of the model in Triton; 0 for none.
    pub priority_levels: u32,
    /// Level of requests that name none; 0 where there are no levels.
    pub default_priority: u32,
    /// Time after which Triton forgets an idle sequence, in microseconds; 0 for its default.
    pub sequence_idle_us: u64,
    /// Longest wait in Triton's queue by the model's own policy, in microseconds; 0 for no bound.
    pub queue_timeout_us: u64,
    /// Whether a request's `timeout` may make that shorter.
    pub timeout_override: bool,
}

/// A movable name of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PointerSpec {
    /// `alias` or `stage`.
    pub kind: String,
    /// Without `@`; stages in lower case.
    pub name: String,
    /// A version of the same model.
    pub version: String,
}

/// One target of a split.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArmSpec {
    /// `stable`, `canary` or the operator's word.
    pub name: String,
    /// A version of the same model.
    pub version: String,
    /// Hundredths of a percent.
    pub weight: u32,
}

/// One condition of a match rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConditionSpec {
    /// `header` or `parameter`.
    pub kind: String,
    /// Of the header or the parameter.
    pub name: String,
    /// What it must be, exactly.
    pub value: String,
}

/// One match rule: requests for which all conditions hold go to an arm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MatchRuleSpec {
    /// At least one.
    pub conditions: Vec<ConditionSpec>,
    /// An arm of the same model.
    pub arm: String,
}

/// Neighbouring buckets of one arm.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BucketRunSpec {
    /// An arm of the same model.
    pub arm: String,
    /// How many buckets, at least 1.
    pub length: u32,
}

/// One target of copies: it gets some of the requests that the split answers, and answers nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShadowSpec {
    /// The operator's word; no arm of the model has the same.
    pub name: String,
    /// A version of the same model.
    pub version: String,
    /// Share of the requests that are copied, in hundredths of a percent.
    pub sample: u32,
}

/// One logical model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelSpec {
    /// The logical name.
    pub name: String,
    /// All versions that a client may reach, in the registry's order.
    pub versions: Vec<VersionSpec>,
    /// Aliases and stages.
    pub pointers: Vec<PointerSpec>,
    /// The split; empty where no request without a reference can be answered.
    pub arms: Vec<ArmSpec>,
    /// The reference that the stable arm names; a request with it enters the split.
    pub split_reference: String,
    /// Default deadline of unary calls, 0 for the gateway's.
    pub deadline_ms: u64,
    /// Why `arms` is empty, for the client.
    pub unroutable: String,
    /// What keeps a caller on its arm: `header:NAME`, `parameter:NAME`, or nothing.
    pub sticky: String,
    /// Hashed with every key; the model's name where it is empty.
    pub salt: String,
    /// The buckets of keys in order, as many for each arm as its weight; each arm in one piece where empty.
    pub buckets: Vec<BucketRunSpec>,
    /// Rules that come before the buckets; the first that fits wins.
    pub rules: Vec<MatchRuleSpec>,
    /// Whether the request header `stagegate-arm` names the arm.
    pub arm_header: bool,
    /// Who gets copies of what the split answers.
    pub shadows: Vec<ShadowSpec>,
    /// gRPC status names with which an arm may fail for another one to answer; empty for none.
    pub fallback_codes: Vec<String>,
    /// The arm that answers then.
    pub fallback_to: String,
}

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The control plane's number of this table.
    pub revision: u64,
    /// Every backend.
    pub backends: Vec<BackendSpec>,
    /// Every model.
    pub models: Vec<ModelSpec>,
}

/// Changes on top of `base_revision`: whole models and backends, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The revision that this applies to, exactly.
    pub base_revision: u64,
    /// The revision afterwards, larger.
    pub revision: u64,
    /// Backends that are new or have another address.
    pub put_backends: Vec<BackendSpec>,
    /// Backends that are gone.
    pub drop_backends: Vec<String>,
    /// Models that are new or changed.
    pub put_models: Vec<ModelSpec>,
    /// Models that are gone.
    pub drop_models: Vec<String>,
}
