//! Metadata and configuration of a model, and calls that are passed to the one backend that there is.

use std::fmt::Write as _;
use std::rc::Rc;

use http::header::CONTENT_TYPE;
use http::{Method, Response, StatusCode};
use serde_json::{json, Value};
use stagegate_table::State;
use stagegate_wire::fields::Fields;
use stagegate_wire::names::Names;
use stagegate_wire::text::replace_name;
use stagegate_wire::Malformed;

use crate::deadline::Deadline;
use crate::download::mark;
use crate::forward::logical_name;
use crate::rest::body::Body;
use crate::rest::calls::Asked;
use crate::rest::exchange::{ask_version, exchange, Ask, Payload, Question, Tries};
use crate::rest::fetch::fetch;
use crate::rest::headers;
use crate::rest::infer::ready;
use crate::rest::json as pass;
use crate::rest::path::{put_segment, ModelCall};
use crate::rest::refusal::{json as json_answer, Refusal, JSON};
use crate::rest::upload::{read_whole, BodyLimits};
use crate::routed::Routed;
use crate::status::{Code, Status};
use crate::unary::usual_deadline;
use crate::worker::Worker;

/// The path of a version on a backend, with what is asked of it.
pub(crate) fn backend_path(routed: &Routed, call: ModelCall, query: Option<&str>) -> String {
    let version = &routed.version;
    let mut path = String::from("/v2/models/");
    put_segment(&mut path, &version.backend_model);
    if !version.backend_version.is_empty() {
        path.push_str("/versions/");
        put_segment(&mut path, &version.backend_version);
    }
    path.push_str(call.suffix());
    if let Some(query) = query {
        let _ = write!(path, "?{query}");
    }
    path
}

/// Answer a question about a model: `Metadata` or `Config`.
pub(crate) async fn model(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    call: ModelCall,
    names: Names<'_>,
) -> Result<Response<Body>, Refusal> {
    let mut deadline = local_deadline(worker);
    let mut routed = worker.resolve(names, &asked.headers)?;
    if call == ModelCall::Metadata && routed.version.state != State::Ready {
        if let Some(known) = known_metadata(&routed)? {
            return Ok(answer(worker, &routed, &known));
        }
    }
    ready(worker, &mut deadline, &mut routed).await?;
    headers::for_backend(&mut asked.headers);
    let query = asked.query.as_deref();
    let question = Question {
        method: Method::GET,
        path: &|routed| backend_path(routed, call, query),
        headers: &asked.headers,
    };
    let payload = Payload::Whole(<_>::default());
    let answered = ask_version(worker, &mut deadline, &mut routed, &question, payload).await?;
    let fetched = fetch(answered, &mut deadline).await?;
    let mut told = fetched.json(&names_of(&routed))?;
    if call == ModelCall::Config {
        rename_config(&mut told, worker, &routed);
    } else {
        rename_metadata(&mut told, &routed);
    }
    Ok(answer(worker, &routed, &told))
}

fn names_of(routed: &Routed) -> pass::Names {
    let version = &routed.version;
    pass::Names::new(&routed.model.name, &version.id, &version.backend_model)
}

pub(crate) fn local_deadline(worker: &Worker) -> Deadline {
    let now = std::time::Instant::now();
    Deadline::new(&worker.deadlines, usual_deadline(worker, now))
}

fn answer(worker: &Worker, routed: &Routed, told: &Value) -> Response<Body> {
    let mut answer = json_answer(StatusCode::OK, told.to_string());
    mark(answer.headers_mut(), worker, Some(routed));
    answer
}

fn rename_metadata(told: &mut Value, routed: &Routed) {
    if let Value::Object(fields) = told {
        fields.insert("name".to_owned(), Value::from(&*routed.model.name));
        fields.insert("versions".to_owned(), json!([&*routed.version.id]));
    }
}

fn rename_config(told: &mut Value, worker: &Worker, routed: &Routed) {
    let triton = &*routed.version.backend_model;
    let logical = &*routed.model.name;
    if let Some(name) = told.get_mut("name") {
        *name = Value::from(logical);
    }
    for group in list(told.get_mut("instance_group")) {
        if let Some(Value::String(name)) = group.get_mut("name") {
            *name = replace_name(name, triton, logical).into_owned();
        }
    }
    let steps = told
        .get_mut("ensemble_scheduling")
        .and_then(|ensemble| ensemble.get_mut("step"));
    for step in list(steps) {
        if let Some(Value::String(name)) = step.get_mut("model_name") {
            if let Some(logical) = logical_name(worker, routed, name) {
                *name = logical;
            }
        }
    }
}

fn list(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value
        .and_then(Value::as_array_mut)
        .into_iter()
        .flat_map(|list| list.iter_mut())
}

/// The metadata that the contract of a version gives, where it does.
fn known_metadata(routed: &Routed) -> Result<Option<Value>, Refusal> {
    let known = &routed.version.metadata;
    if known.is_empty() {
        return Ok(None);
    }
    let mut told = metadata(known)
        .map_err(|error| Status::internal(format!("the contract cannot be read: {error}")))?;
    rename_metadata(&mut told, routed);
    Ok(Some(told))
}

/// A `ModelMetadataResponse` as the REST protocol writes it.
fn metadata(message: &[u8]) -> Result<Value, Malformed> {
    const PLATFORM: u32 = 3;
    const INPUT: u32 = 4;
    const OUTPUT: u32 = 5;
    let (mut platform, mut inputs, mut outputs) = (String::new(), Vec::new(), Vec::new());
    for field in Fields::new(message) {
        let field = field?;
        if field.is(PLATFORM) {
            platform = text(field.payload);
        } else if field.is(INPUT) {
            inputs.push(tensor(field.payload)?);
        } else if field.is(OUTPUT) {
            outputs.push(tensor(field.payload)?);
        }
    }
    Ok(json!({
        "name": "", "versions": [], "platform": platform, "inputs": inputs, "outputs": outputs,
    }))
}

fn tensor(message: &[u8]) -> Result<Value, Malformed> {
    const NAME: u32 = 1;
    const DATATYPE: u32 = 2;
    const SHAPE: u32 = 3;
    let (mut name, mut datatype, mut shape) = (String::new(), String::new(), Vec::new());
    for field in Fields::new(message) {
        let field = field?;
        if let (true, Some(number)) = (field.number == SHAPE, field.varint()) {
            shape.push(number.cast_signed());
        } else if field.is(SHAPE) {
            shape.extend(packed(field.payload)?);
        } else if field.is(NAME) {
            name = text(field.payload);
        } else if field.is(DATATYPE) {
            datatype = text(field.payload);
        }
    }
    Ok(json!({"name": name, "datatype": datatype, "shape": shape}))
}

fn packed(mut bytes: &[u8]) -> Result<Vec<i64>, Malformed> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        let (number, taken) = stagegate_wire::fields::read_varint(bytes)?;
        numbers.push(number.cast_signed());
        bytes = &bytes[taken..];
    }
    Ok(numbers)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Pass a call that `protocol.allow` opened to the one backend that there is.
pub(crate) async fn pass_through(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    method: &str,
) -> Result<Response<Body>, Refusal> {
    let backends: Vec<u32> =
        worker.with_table(|table| table.backends().iter().map(|backend| backend.id).collect());
    if backends.len() != 1 {
        let text = format!(
            "{method} concerns one Triton, and the gateway has {}; call that Triton itself",
            backends.len()
        );
        return Err(Status::new(Code::FailedPrecondition, text).into());
    }
    let mut deadline = local_deadline(worker);
    let limits = BodyLimits::new(&asked.headers, asked.length(), &worker.limits())?;
    let payload = match asked.body.take() {
        Some(body) => read_whole(body, limits, &worker.budget).await?.body,
        None => <_>::default(),
    };
    headers::for_backend(&mut asked.headers);
    let path = asked.path.clone();
    let ask = Ask {
        method: asked.method.clone(),
        path: &path,
        headers: &asked.headers,
        backends: &backends,
        pinned: false,
        version: None,
        what: &|| path.clone(),
    };
    let mut tries = Tries::new(Payload::Whole(payload));
    let answered = exchange(worker, &mut deadline, &ask, &mut tries).await?;
    let fetched = fetch(answered, &mut deadline).await?;
    let mut answer = Response::new(Body::whole(fetched.body));
    *answer.status_mut() = fetched.status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    mark(answer.headers_mut(), worker, None);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stagegate_wire::encode::{put_len, put_number};

    #[test]
    fn metadata_of_a_contract_reads_as_tritons() {
        let mut tensor = Vec::new();
        put_len(&mut tensor, 1, b"image");
        put_len(&mut tensor, 2, b"FP32");
        // -1 packed, 64 on its own.
        put_len(
            &mut tensor,
            3,
            &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        );
        put_number(&mut tensor, 3, 64);
        let mut message = Vec::new();
        put_len(&mut message, 1, b"digits");
        put_len(&mut message, 3, b"onnx");
        put_len(&mut message, 4, &tensor);

        assert_eq!(
            json!({
                "name": "", "versions": [], "platform": "onnx",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
                "outputs": [],
            }),
            metadata(&message).unwrap()
        );
    }
}
