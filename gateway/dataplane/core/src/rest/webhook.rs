//! `POST /webhooks/NAME`: a notice of a registry, which the control plane answers.

use std::time::{Duration, Instant};

use http::{HeaderMap, Response, StatusCode};
use tokio::time::timeout;

use crate::limits::Limits;
use crate::rest::body::Body;
use crate::rest::calls::Asked;
use crate::rest::refusal::{code_of, json, Refusal};
use crate::rest::upload::{read_whole, BodyLimits, Whole};
use crate::status::{Code, Status};
use crate::webhooks::{Answer, Webhook};
use crate::worker::Worker;

const MOST_BODY: usize = 1 << 20;
const MOST_HEADERS: usize = 64;
/// Names and values.
const MOST_HEADER_BYTES: usize = 16 << 10;
/// A sender has this long for a body.
const BODY_TIME: Duration = Duration::from_secs(5);
/// The control plane has this long for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this many milliseconds a sender that was turned away may try again.
const AGAIN: u32 = 1000;

/// Hand a notice to the control plane, and wait for what it says.
pub(crate) async fn notice(
    worker: &Worker,
    asked: &mut Asked,
    registry: String,
) -> Result<Response<Body>, Refusal> {
    let headers = headers(&asked.headers)?;
    let whole = body(worker, asked).await?;
    let notice = Webhook {
        registry,
        headers,
        body: whole.body,
    };
    let Some(mut place) = worker.shared.webhooks.enter(notice, Instant::now()) else {
        return Err(unavailable(
            "too many notices came just now or wait for an answer",
        ));
    };
    if !worker.teller.webhook(place.id()) {
        return Err(unavailable("too much waits for the control plane"));
    }
    match timeout(PATIENCE, place.answer()).await {
        Ok(Some(answer)) => Ok(response(answer)),
        Ok(None) => Err(unavailable("the gateway ends")),
        Err(_) => Err(unavailable("the control plane did not answer within 5 s")),
    }
}

async fn body(worker: &Worker, asked: &mut Asked) -> Result<Whole, Refusal> {
    let too_large = || Refusal::too_large("the body of a notice is at most 1 MiB long");
    let length = asked.length();
    if length.is_some_and(|length| length > MOST_BODY as u64) {
        return Err(too_large());
    }
    let limits = Limits {
        max_message: MOST_BODY,
        ..worker.limits()
    };
    // Without headers: whatever it is packed in, its sender signed it as it is.
    let limits = BodyLimits::new(&HeaderMap::new(), length, &limits)?;
    let Some(body) = asked.body.take() else {
        return Err(Refusal::http(StatusCode::BAD_REQUEST, "there is no body"));
    };
    let reading = timeout(BODY_TIME, read_whole(body, limits, &worker.notices));
    let outcome = reading
        .await
        .map_err(|_| Refusal::http(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"))?;
    outcome.map_err(|refusal| match refusal.status.code {
        _ if refusal.http == StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        code if code == Code::ResourceExhausted as u8 => {
            unavailable("too many notices are on their way")
        }
        _ => refusal,
    })
}

/// Each name once, its values joined as lists are (RFC 9110, section 5.3).
fn headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, Refusal> {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    if headers.len() > MOST_HEADERS || sizes.sum::<usize>() > MOST_HEADER_BYTES {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::http(status, "too many headers for a notice"));
    }
    let joined = |name| {
        let values = headers.get_all(name).iter();
        let texts: Vec<_> = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        texts.join(", ")
    };
    Ok(headers
        .keys()
        .map(|name| (name.as_str().to_owned(), joined(name)))
        .collect())
}

fn response(answer: Answer) -> Response<Body> {
    let Answer { status, text } = answer;
    if text.is_empty() {
        return json(status, "{}".to_owned());
    }
    let is_for_now = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let refusal = Refusal {
        http: status,
        status: Status {
            code: code_of(status),
            message: text.into(),
            push_back: is_for_now.then_some(AGAIN),
        },
    };
    refusal.answer()
}

fn unavailable(text: &'static str) -> Refusal {
    Status::unavailable(text).push_back(AGAIN).into()
}
