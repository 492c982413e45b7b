//! Statistics of models, summed over the backends that serve them.

use std::collections::BTreeSet;
use std::rc::Rc;

use http::{Method, Response, StatusCode};
use serde_json::{json, Number, Value};
use stagegate_table::{State, Table};
use stagegate_wire::names::Names;

use crate::rest::about::local_deadline;
use crate::rest::body::Body;
use crate::rest::calls::Asked;
use crate::rest::exchange::{exchange, Ask, Payload, Tries};
use crate::rest::fetch::fetch;
use crate::rest::headers;
use crate::rest::json as pass;
use crate::rest::refusal::{json as json_answer, Refusal};
use crate::status::{Code, Status};
use crate::worker::Worker;

/// A version that is loaded somewhere, by the names of both sides.
struct Known {
    model: Box<str>,
    version: Box<str>,
    backend_model: Box<str>,
    backend_version: Box<str>,
    backends: Box<[u32]>,
}

/// `GET /v2/models/stats`.
pub(crate) async fn of_all(
    worker: &Rc<Worker>,
    asked: &mut Asked,
) -> Result<Response<Body>, Refusal> {
    let known = worker.with_table(|table| {
        let models = table.sorted_models();
        let names = models.iter().map(|model| model.name.clone());
        let names: Vec<Box<str>> = names.collect();
        names
            .iter()
            .flat_map(|name| ready_versions(table, name, None))
            .collect::<Vec<_>>()
    });
    sum(worker, asked, &known).await
}

/// `GET /v2/models/M[/versions/V]/stats`: of all versions that are loaded, or of one.
pub(crate) async fn of_model(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    names: Names<'_>,
) -> Result<Response<Body>, Refusal> {
    let routed = worker.resolve(names, &asked.headers).map_err(|status| {
        if status.code == Code::NotFound as u8 {
            // Triton's own code and words, which differ from those of its other calls.
            let name = String::from_utf8_lossy(names.model);
            let text = format!("requested model '{name}' is not available");
            return Status::new(Code::InvalidArgument, text);
        }
        status
    })?;
    let is_bare = names.version.is_empty() && !names.model.contains(&b'@');
    let only = (!is_bare).then_some(&*routed.version.id);
    let known = worker.with_table(|table| ready_versions(table, &routed.model.name, only));
    sum(worker, asked, &known).await
}

fn ready_versions(table: &Table, model: &str, only: Option<&str>) -> Vec<Known> {
    let Some(model) = table.model(model.as_bytes()) else {
        return Vec::new();
    };
    let wanted = model.versions.iter().filter(|version| {
        version.state == State::Ready && only.is_none_or(|only| *version.id == *only)
    });
    wanted
        .map(|version| Known {
            model: model.name.clone(),
            version: version.id.clone(),
            backend_model: version.backend_model.clone(),
            backend_version: version.backend_version.clone(),
            backends: version.backends.clone(),
        })
        .collect()
}

/// Ask every backend once for all of its statistics, and sum what is said of the same version.
async fn sum(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    known: &[Known],
) -> Result<Response<Body>, Refusal> {
    let mut deadline = local_deadline(worker);
    headers::for_backend(&mut asked.headers);
    let backends: BTreeSet<u32> = known
        .iter()
        .flat_map(|known| known.backends.iter().copied())
        .collect();
    let mut sums: Vec<Option<Value>> = known.iter().map(|_| None).collect();
    for backend in backends {
        let mut here = (0..known.len()).filter(|at| known[*at].backends.contains(&backend));
        let (first, more) = (here.next(), here.next());
        let path = match (first, more) {
            // One model of very many is not worth a list of all.
            (Some(at), None) => path_of(&known[at]),
            _ => "/v2/models/stats".to_owned(),
        };
        let ask = Ask {
            method: Method::GET,
            path: &path,
            headers: &asked.headers,
            backends: &[backend],
            pinned: false,
            version: None,
            what: &|| "statistics".to_owned(),
        };
        let mut tries = Tries::new(Payload::Whole(<_>::default()));
        let answered = exchange(worker, &mut deadline, &ask, &mut tries).await?;
        let fetched = fetch(answered, &mut deadline).await?;
        let told = fetched.json(&pass::Names::new("", "", ""))?;
        for entry in told["model_stats"].as_array().into_iter().flatten() {
            let fits = |at: &usize| known[*at].is(entry) && known[*at].backends.contains(&backend);
            if let Some(at) = (0..known.len()).find(fits) {
                add(&mut sums[at], known[at].renamed(entry));
            }
        }
    }
    let told: Vec<Value> = sums.into_iter().flatten().collect();
    Ok(json_answer(
        StatusCode::OK,
        json!({"model_stats": told}).to_string(),
    ))
}

fn path_of(known: &Known) -> String {
    let mut path = String::from("/v2/models/");
    crate::rest::path::put_segment(&mut path, &known.backend_model);
    path.push_str("/stats");
    path
}

impl Known {
    /// Whether an entry of a backend's statistics is about this version.
    fn is(&self, entry: &Value) -> bool {
        entry["name"] == *self.backend_model
            && (self.backend_version.is_empty() || entry["version"] == *self.backend_version)
    }

    fn renamed(&self, entry: &Value) -> Value {
        let mut entry = entry.clone();
        entry["name"] = Value::from(&*self.model);
        entry["version"] = Value::from(&*self.version);
        entry
    }
}

fn add(sum: &mut Option<Value>, entry: Value) {
    match sum {
        None => *sum = Some(entry),
        Some(sum) => merge(sum, &entry),
    }
}

/// Add numbers up, wherever they stand; of times the later one counts. Batches are those of one size.
fn merge(sum: &mut Value, entry: &Value) {
    match (sum, entry) {
        (Value::Object(sum), Value::Object(entry)) => {
            for (key, value) in entry {
                match sum.get_mut(key) {
                    None => drop(sum.insert(key.clone(), value.clone())),
                    Some(old) if key == "last_inference" => {
                        if value.as_u64() > old.as_u64() {
                            *old = value.clone();
                        }
                    }
                    Some(_) if key == "batch_size" => {}
                    Some(old) => merge(old, value),
                }
            }
        }
        (Value::Array(sum), Value::Array(entry)) => {
            for value in entry {
                let size = &value["batch_size"];
                let same = |old: &&mut Value| !size.is_null() && old["batch_size"] == *size;
                match sum.iter_mut().find(same) {
                    Some(old) => merge(old, value),
                    None => sum.push(value.clone()),
                }
            }
        }
        (Value::Number(sum), Value::Number(entry)) => {
            if let (Some(a), Some(b)) = (sum.as_u64(), entry.as_u64()) {
                *sum = Number::from(a.saturating_add(b));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_two_backends_are_summed() {
        let mut sum = None;
        add(
            &mut sum,
            json!({"name": "m", "last_inference": 9, "inference_count": 2,
                "inference_stats": {"success": {"count": 2, "ns": 10}},
                "batch_stats": [{"batch_size": 1, "compute_infer": {"count": 2, "ns": 5}}],
                "memory_usage": [{"type": "CPU", "byte_size": 1}]}),
        );
        add(
            &mut sum,
            json!({"name": "m", "last_inference": 7, "inference_count": 3,
                "inference_stats": {"success": {"count": 3, "ns": 20}},
                "batch_stats": [{"batch_size": 1, "compute_infer": {"count": 3, "ns": 5}},
                    {"batch_size": 8, "compute_infer": {"count": 1, "ns": 1}}],
                "memory_usage": []}),
        );

        assert_eq!(
            json!({"name": "m", "last_inference": 9, "inference_count": 5,
                "inference_stats": {"success": {"count": 5, "ns": 30}},
                "batch_stats": [{"batch_size": 1, "compute_infer": {"count": 5, "ns": 10}},
                    {"batch_size": 8, "compute_infer": {"count": 1, "ns": 1}}],
                "memory_usage": [{"type": "CPU", "byte_size": 1}]}),
            sum.unwrap()
        );
    }
}
