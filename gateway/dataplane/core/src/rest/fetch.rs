//! Small answers of backends that are read whole.

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use crate::deadline::Deadline;
use crate::rest::exchange::{Answer, AnswerBody};
use crate::rest::json::{error_text, Names};
use crate::rest::refusal::{code_of, Refusal};
use crate::rest::wait::before;
use crate::status::Status;

/// Longest answer that is read whole: a configuration may have many inputs.
const MOST: usize = 16 << 20;

/// An answer of a backend, and which backend gave it.
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    backend: Box<str>,
}

/// Read an answer to its end.
pub(crate) async fn fetch(answer: Answer, deadline: &mut Deadline) -> Result<Fetched, Refusal> {
    let Answer {
        head,
        body,
        mut via,
    } = answer;
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(unreadable(&via.name, "it is compressed").into());
    }
    let body = match body {
        AnswerBody::There(body) => body,
        AnswerBody::Coming(body) => {
            let body = before(deadline, read(body, &via.name)).await??;
            via.give_back();
            body
        }
    };
    Ok(Fetched {
        status: head.status,
        body,
        backend: via.name.clone(),
    })
}

async fn read(mut incoming: Incoming, backend: &str) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| unreadable(backend, &error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > MOST {
                return Err(unreadable(backend, "it is too long"));
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}

fn unreadable(backend: &str, why: &str) -> Status {
    Status::internal(format!(
        "backend '{backend}' gave an answer that cannot be read: {why}"
    ))
}

impl Fetched {
    /// The JSON in it, or the backend's own refusal with logical names.
    pub(crate) fn json(self, names: &Names) -> Result<Value, Refusal> {
        if self.status.is_success() {
            return serde_json::from_slice(&self.body)
                .map_err(|error| unreadable(&self.backend, &error.to_string()).into());
        }
        Err(Refusal {
            http: self.status,
            status: Status {
                code: code_of(self.status),
                message: names.text(&error_text(&self.body)).into(),
                push_back: None,
            },
        })
    }
}
