//! What the gateway answers for itself: server calls, readiness, and the index of logical models.

use bytes::Bytes;
use stagegate_table::{Model, State, Table, Version};
use stagegate_wire::encode::bool_answer;
use stagegate_wire::local::{self, IndexLine};

use crate::message::malformed;
use crate::status::{Code, Status};
use crate::worker::Worker;

/// Extensions of the protocol, each with the methods that must be open for it; in Triton's order.
const EXTENSIONS: [(&str, &[&str]); 12] = [
    ("classification", &[]),
    ("sequence", &[]),
    (
        "model_repository",
        &["RepositoryModelLoad", "RepositoryModelUnload"],
    ),
    (
        "model_repository(unload_dependents)",
        &["RepositoryModelUnload"],
    ),
    ("schedule_policy", &[]),
    ("model_configuration", &[]),
    (
        "system_shared_memory",
        &[
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
        ],
    ),
    (
        "cuda_shared_memory",
        &[
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
        ],
    ),
    ("parameters", &[]),
    ("statistics", &[]),
    ("trace", &["TraceSetting"]),
    ("logging", &["LogSettings"]),
];

/// `ServerLive`: whoever answers lives.
pub(crate) fn server_live() -> Bytes {
    bool_answer(true)
}

/// `ServerReady`.
pub(crate) fn server_ready(worker: &Worker) -> Bytes {
    bool_answer(worker.shared.is_ready())
}

/// `ServerMetadata`.
pub(crate) fn server_metadata(worker: &Worker) -> Bytes {
    let settings = &worker.shared.settings;
    let extensions = extensions(worker);
    local::server_metadata(&settings.server_name, &settings.server_version, &extensions)
}

/// The extensions of the protocol that work through this gateway.
pub(crate) fn extensions(worker: &Worker) -> Vec<&'static str> {
    let allow = &worker.shared.allow;
    EXTENSIONS
        .iter()
        .filter(|(_, methods)| methods.iter().all(|method| allow.is_open(method)))
        .map(|(name, _)| *name)
        .collect()
}

/// `ModelReady`: whether an inference with these names would be taken. As with Triton, what is unknown
/// is not ready; only what could never be a name is an error.
pub(crate) fn model_ready(worker: &Worker, request: &[u8]) -> Result<Bytes, Status> {
    let names = stagegate_wire::names::scan_message(request).map_err(malformed)?;
    match worker.resolve(names, &http::HeaderMap::new()) {
        Ok(routed) => Ok(bool_answer(takes_requests(&routed.version))),
        Err(status) if status.code == Code::InvalidArgument as u8 => Err(status),
        Err(_) => Ok(bool_answer(false)),
    }
}

/// Whether a version would take a request, if need be after a load.
pub(crate) fn takes_requests(version: &Version) -> bool {
    !matches!(version.state, State::Failed(_))
}

/// `RepositoryIndex`, of the logical models.
pub(crate) fn repository_index(worker: &Worker, request: &[u8]) -> Result<Bytes, Status> {
    let only_ready = local::index_wants_ready(request).map_err(malformed)?;
    Ok(worker.with_table(|table| index(table, only_ready)))
}

fn index(table: &Table, only_ready: bool) -> Bytes {
    let models = table.sorted_models();
    let lines = models.iter().flat_map(|model| index_lines(model));
    local::repository_index(lines.filter(|line| !only_ready || line.state == "READY"))
}

/// One line a version; a model without versions has one, with nothing but its name.
pub(crate) fn index_lines(model: &Model) -> impl Iterator<Item = IndexLine<'_>> {
    let name = &*model.name;
    let bare = model.versions.is_empty().then_some(IndexLine {
        name,
        version: "",
        state: "",
        reason: &model.unroutable,
    });
    let versions = model.versions.iter().map(move |version| {
        let (state, reason) = match &version.state {
            State::Ready => ("READY", ""),
            State::Cold => ("UNAVAILABLE", "not loaded; the first request loads it"),
            State::Failed(reason) => ("UNAVAILABLE", &**reason),
        };
        IndexLine {
            name,
            version: &version.id,
            state,
            reason,
        }
    });
    bare.into_iter().chain(versions)
}
