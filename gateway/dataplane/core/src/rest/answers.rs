//! What the gateway answers for itself: server calls, readiness, and the index of logical models.

use http::{HeaderMap, Response, StatusCode};
use serde_json::{json, Map, Value};
use stagegate_wire::names::Names;

use crate::answer;
use crate::rest::body::Body;
use crate::rest::refusal::{json as json_answer, Refusal};
use crate::status::{Code, Status};
use crate::worker::Worker;

fn ok(body: &Value) -> Response<Body> {
    json_answer(StatusCode::OK, body.to_string())
}

/// `GET /v2/health/live`: whoever answers lives.
pub(crate) fn live() -> Response<Body> {
    ok(&json!({"live": true}))
}

/// `GET /v2/health/ready`. Triton's status where it is not.
pub(crate) fn ready(worker: &Worker) -> Response<Body> {
    let is_ready = worker.shared.is_ready();
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    json_answer(status, json!({"ready": is_ready}).to_string())
}

/// `GET /v2`.
pub(crate) fn server_metadata(worker: &Worker) -> Response<Body> {
    let settings = &worker.shared.settings;
    let mut extensions = answer::extensions(worker);
    extensions.push("binary_tensor_data");
    extensions.push("generate");
    ok(&json!({
        "name": settings.server_name,
        "version": settings.server_version,
        "extensions": extensions,
    }))
}

/// `GET /v2/models/M[/versions/V]/ready`. What is unknown is not ready, as with Triton.
pub(crate) fn model_ready(
    worker: &Worker,
    names: Names<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Refusal> {
    match worker.resolve(names, headers) {
        Ok(routed) if answer::takes_requests(&routed.version) => {
            Ok(ok(&json!({"name": &*routed.model.name, "ready": true})))
        }
        Err(status) if status.code == Code::InvalidArgument as u8 => Err(status.into()),
        Ok(_) | Err(_) => Err(Status::new(Code::InvalidArgument, "Model version not ready").into()),
    }
}

/// `POST /v2/repository/index`, of the logical models.
pub(crate) fn index(worker: &Worker, request: &[u8]) -> Result<Response<Body>, Refusal> {
    let only_ready = wants_ready(request)?;
    let lines: Vec<Value> = worker.with_table(|table| {
        let models = table.sorted_models();
        let lines = models.iter().flat_map(|model| answer::index_lines(model));
        let wanted = lines.filter(|line| !only_ready || line.state == "READY");
        wanted.map(|line| index_line(&line)).collect()
    });
    Ok(ok(&Value::from(lines)))
}

fn index_line(line: &stagegate_wire::local::IndexLine<'_>) -> Value {
    let fields = [
        ("name", line.name),
        ("version", line.version),
        ("state", line.state),
        ("reason", line.reason),
    ];
    let told = fields
        .into_iter()
        .filter(|(key, value)| *key == "name" || !value.is_empty());
    told.map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn wants_ready(request: &[u8]) -> Result<bool, Refusal> {
    if request.is_empty() {
        return Ok(false);
    }
    let broken = |text: &str| {
        // Triton calls this an internal error, and its clients know it by that.
        Status::internal(format!("failed to parse the request JSON buffer: {text}"))
    };
    let asked: Value =
        serde_json::from_slice(request).map_err(|error| broken(&error.to_string()))?;
    match asked.get("ready") {
        None => Ok(false),
        Some(Value::Bool(ready)) => Ok(*ready),
        Some(_) => Err(broken("'ready' is not a boolean").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_may_be_asked_for_what_is_ready() {
        for (request, expected) in [
            (&b""[..], Some(false)),
            (b"{}", Some(false)),
            (b"{\"ready\":true}", Some(true)),
            (b"{\"ready\":false}", Some(false)),
            (b"{\"ready\":1}", None),
            (b"junk", None),
        ] {
            assert_eq!(expected, wants_ready(request).ok());
        }
        assert_eq!(500, wants_ready(b"junk").unwrap_err().http.as_u16());
    }

    #[test]
    fn a_line_of_the_index_leaves_out_what_is_empty() {
        let line = stagegate_wire::local::IndexLine {
            name: "m",
            version: "",
            state: "",
            reason: "",
        };

        assert_eq!(r#"{"name":"m"}"#, index_line(&line).to_string());
    }
}
