//! `ModelStatistics`: what all backends of a version counted, added up, under logical names.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use stagegate_table::grammar;
use stagegate_table::{Model, State, Table, Version};
use stagegate_wire::names::Names;
use stagegate_wire::statistics::{entries, put_entry, Entry};

use crate::ask::ask_all;
use crate::client::{Client, Failure};
use crate::message::malformed;
use crate::status::{Code, Status};
use crate::unary::receive;
use crate::worker::Worker;

/// Backends that were asked, by id, each with what it counted for its models.
type Counted = HashMap<u32, HashMap<String, Vec<Entry>>>;

/// A version with its model.
type Known = (Arc<Model>, Arc<Version>);

/// Answer `ModelStatistics`. Without a model it is about all, without a version about all of the model
/// that are loaded. Nothing is ever loaded for it: what is not, has counted nothing.
pub(crate) async fn statistics(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    receive(worker, client).await?;
    let names = client.message.names()?;
    let (versions, questions) = worker.with_table(|table| {
        if names.model.is_empty() && names.version.is_empty() {
            return Ok((None, all_questions(table)));
        }
        let versions = versions(table, names)?;
        let questions = versions.iter().flat_map(|(_, version)| questions(version));
        let questions = questions.collect();
        Ok::<_, Status>((Some(versions), questions))
    })?;
    let counted = gather(worker, client, questions).await?;
    let mut out = Vec::new();
    let mut put = |model: &Model, version: &Version| {
        let found = counted_for(&counted, version);
        put_entry(&mut out, &model.name, &version.id, &found).map_err(malformed_answer)
    };
    match versions {
        Some(versions) => versions
            .iter()
            .try_for_each(|(model, version)| put(model, version))?,
        None => worker.with_table(|table| {
            let models = table.sorted_models().into_iter();
            let all = models.flat_map(|model| resident(model).map(move |version| (model, version)));
            all.into_iter()
                .try_for_each(|(model, version)| put(model, version))
        })?,
    }
    client.reply(out.into()).await
}

fn malformed_answer(error: stagegate_wire::Malformed) -> Status {
    Status::internal(format!("a backend's statistics cannot be read: {error}"))
}

/// Versions of a model that are loaded, in the registry's order.
fn resident(model: &Model) -> impl Iterator<Item = &Arc<Version>> {
    let versions = model.versions.iter();
    versions.filter(|version| version.state == State::Ready)
}

/// The versions that are asked for: the one that is named, else all that are loaded, else the one that
/// a request would be answered by. The refusals are Triton's.
fn versions(table: &Table, names: Names<'_>) -> Result<Vec<Known>, Status> {
    let refused = |text: String| Status::new(Code::InvalidArgument, text);
    let asked = grammar::parse(names.model, names.version).map_err(&refused)?;
    let name = String::from_utf8_lossy(asked.model);
    let unknown = || refused(format!("requested model '{name}' is not available"));
    let model = table.model(asked.model).ok_or_else(unknown)?;
    let known = |version: &Arc<Version>| (Arc::clone(model), Arc::clone(version));
    if asked.in_name.is_none() && asked.in_version.is_none() {
        let loaded: Vec<Known> = resident(model).map(known).collect();
        if !loaded.is_empty() {
            return Ok(loaded);
        }
    }
    // A reference that is the route's split means its first arm here: it is always the same one.
    match stagegate_table::pick(table, names.model, names.version, || 0) {
        Ok(pick) if !matches!(pick.version.state, State::Failed(_)) => {
            Ok(vec![known(pick.version)])
        }
        Err(error) if error.code() == Code::InvalidArgument as u8 => Err(refused(error.message)),
        _ => Err(refused(format!(
            "requested model version is not available for model '{name}'"
        ))),
    }
}

/// One question to each backend of a version.
fn questions(version: &Version) -> Vec<(u32, Bytes)> {
    let ready = version.state == State::Ready;
    let backends = version.backends.iter().filter(|_| ready);
    backends
        .map(|id| (*id, version.request_tail.clone()))
        .collect()
}

/// Ask every backend that serves anything for all that it has.
fn all_questions(table: &Table) -> Vec<(u32, Bytes)> {
    let mut ids: Vec<u32> = table
        .models()
        .flat_map(|model| resident(model))
        .flat_map(|version| version.backends.iter().copied())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| (id, Bytes::new())).collect()
}

/// What the backends say. One that cannot is left out, unless none can.
async fn gather(
    worker: &Worker,
    client: &mut Client,
    questions: Vec<(u32, Bytes)>,
) -> Result<Counted, Failure> {
    let asked: Vec<u32> = questions.iter().map(|(id, _)| *id).collect();
    let answers = ask_all(worker, client, questions).await?;
    let mut counted = Counted::new();
    let mut refusal = None;
    for (backend, answer) in asked.iter().zip(answers) {
        let found = match answer {
            Ok(message) => entries(&message).map_err(malformed)?,
            Err(status) => {
                refusal.get_or_insert(status);
                continue;
            }
        };
        let models = counted.entry(*backend).or_default();
        for entry in found {
            models.entry(entry.model.clone()).or_default().push(entry);
        }
    }
    match refusal {
        Some(status) if counted.is_empty() => Err(status.into()),
        _ => Ok(counted),
    }
}

/// What the backends of a version counted for it.
fn counted_for<'c>(counted: &'c Counted, version: &Version) -> Vec<&'c [u8]> {
    let of_backend = |id: &u32| {
        let models = counted.get(id)?;
        let entries = models.get(&*version.backend_model)?;
        let found = entries.iter().filter(|entry| {
            version.backend_version.is_empty() || *entry.version == *version.backend_version
        });
        // Without a version it is Triton's own choice, which is its highest.
        found.max_by_key(|entry| entry.version.parse::<u64>().unwrap_or(0))
    };
    let backends = version.backends.iter();
    backends
        .filter_map(of_backend)
        .map(|entry| &*entry.stats)
        .collect()
}
