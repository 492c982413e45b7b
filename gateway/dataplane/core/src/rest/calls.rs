//! From the path of a request to what answers it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, EXPECT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use stagegate_wire::names::Names;

use crate::allow::Verdict;
use crate::rest::body::Body;
use crate::rest::connection::OpenRequest;
use crate::rest::path::{self, Call, ModelCall};
use crate::rest::refusal::{closing, Refusal};
use crate::rest::upload::{read_whole, BodyLimits};
use crate::rest::{about, answers, infer, statistics, webhook};
use crate::status::{Code, Status};
use crate::worker::Worker;

/// A body that is not wanted is read on for this long and this far, so that the client gets to read
/// its answer: a connection that is closed with unread bytes is reset.
const UNWANTED: usize = 64 << 20;
const UNWANTED_TIME: Duration = Duration::from_secs(1);
/// Body of a call that the gateway answers itself.
const MOST_LOCAL: u64 = 64 << 10;

/// Answer one request.
pub(crate) async fn answer(
    worker: &Rc<Worker>,
    open: OpenRequest,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let waits = head.headers.contains_key(EXPECT);
    let Some((call, verb)) = path::parse(head.uri.path()) else {
        let refusal = Refusal::http(StatusCode::NOT_FOUND, "Not Found");
        return refuse(&refusal, body, waits).await;
    };
    if !verb.takes(&head.method) {
        let refusal = Refusal::http(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let mut answer = refuse(&refusal, body, waits).await;
        let allowed = HeaderValue::from_static(verb.text());
        answer.headers_mut().insert(ALLOW, allowed);
        return answer;
    }
    let mut asked = Asked {
        query: head.uri.query().map(str::to_owned),
        path: head.uri.path().to_owned(),
        method: head.method,
        headers: head.headers,
        body: Some(body),
        open,
    };
    // Boxed because a connection holds this future for as long as it lives.
    let outcome = Box::pin(dispatch(worker, &mut asked, call)).await;
    match (outcome, asked.body.take()) {
        (Ok(answer), _) => answer,
        (Err(refusal), Some(body)) => refuse(&refusal, body, waits).await,
        (Err(refusal), None) => refusal.answer(),
    }
}

/// A request with what of it is still to be used.
pub(crate) struct Asked {
    pub(crate) method: http::Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: http::HeaderMap,
    /// Taken by whoever reads it.
    pub(crate) body: Option<Incoming>,
    pub(crate) open: OpenRequest,
}

impl Asked {
    /// The length of the body, where the client told it.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body
            .as_ref()
            .map_or(Some(0), |body| body.size_hint().exact())
    }
}

async fn dispatch(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    call: Call,
) -> Result<Response<Body>, Refusal> {
    Ok(match call {
        Call::ServerMetadata => answers::server_metadata(worker),
        Call::Live => answers::live(),
        Call::Ready => answers::ready(worker),
        Call::Index => {
            let body = small_body(worker, asked).await?;
            answers::index(worker, &body)?
        }
        Call::AllStatistics => statistics::of_all(worker, asked).await?,
        Call::Webhook(registry) => webhook::notice(worker, asked, registry).await?,
        Call::Guarded(method) => guarded(worker, asked, method).await?,
        Call::Model(call, path) => {
            let names = Names::of(&path.model, &path.version);
            match call {
                ModelCall::Ready => answers::model_ready(worker, names, &asked.headers)?,
                ModelCall::Statistics => statistics::of_model(worker, asked, names).await?,
                ModelCall::Metadata | ModelCall::Config => {
                    about::model(worker, asked, call, names).await?
                }
                ModelCall::Infer | ModelCall::Generate | ModelCall::GenerateStream => {
                    infer::run(worker, asked, call, names).await?
                }
            }
        }
    })
}

async fn guarded(
    worker: &Rc<Worker>,
    asked: &mut Asked,
    method: &'static str,
) -> Result<Response<Body>, Refusal> {
    let path = format!("/inference.GRPCInferenceService/{method}");
    match worker.shared.allow.judge(&path) {
        Verdict::Open => about::pass_through(worker, asked, method).await,
        Verdict::Closed(text) => Err(Status::new(Code::Unimplemented, text).into()),
    }
}

/// The body of a call that the gateway answers itself.
async fn small_body(worker: &Worker, asked: &mut Asked) -> Result<Bytes, Refusal> {
    let length = asked.length();
    if length.is_some_and(|length| length > MOST_LOCAL) {
        return Err(Refusal::too_large("the body is too large for this call"));
    }
    let limits = BodyLimits::new(&asked.headers, length, &worker.limits())?;
    match asked.body.take() {
        Some(body) => Ok(read_whole(body, limits, &worker.budget).await?.body),
        None => Ok(Bytes::new()),
    }
}

/// The answer to a request that is refused before its body was read. Whether its client `waits` to be
/// told to send it: to read it would tell it so.
async fn refuse(refusal: &Refusal, mut body: Incoming, waits: bool) -> Response<Body> {
    if waits && !body.is_end_stream() {
        return closing(refusal.answer());
    }
    let reading = async {
        let mut read = 0;
        while read < UNWANTED {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    };
    let finished = body_is_read(reading).await;
    let answer = refusal.answer();
    if finished {
        answer
    } else {
        closing(answer)
    }
}

async fn body_is_read(reading: impl std::future::Future<Output = bool>) -> bool {
    tokio::time::timeout(UNWANTED_TIME, reading)
        .await
        .unwrap_or(false)
}
