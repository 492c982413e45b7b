//! An arm's failure that another arm answers, where the route says so.

use std::time::Instant;

use h2::RecvStream;
use http::{Response, StatusCode};

use crate::client::{Client, Failure};
use crate::routed::Routed;
use crate::status::{parse_code, Code, Status, GRPC_STATUS};
use crate::unary::{ask, forward, Asked};
use crate::worker::Worker;

/// Answer a request of a route that has a fallback. Afterwards `routed` is who answered, and the client
/// knows with which code the arm failed that was chosen first.
pub(crate) async fn answer(
    worker: &Worker,
    client: &mut Client,
    routed: &mut Routed,
) -> Result<u8, Failure> {
    let first = ask(worker, client, routed).await;
    let Some((code, instead)) = instead(client, routed, &first) else {
        return forward(worker, client, routed, first?).await;
    };
    // Its place and its stream are free before the other arm is asked.
    drop(first);
    client.upload = None;
    client.capture = None;
    client.fell_back = Some(code);
    *routed = instead;
    let asked = ask(worker, client, routed).await?;
    forward(worker, client, routed, asked).await
}

/// Who answers instead, and the code of the failure that makes it so.
fn instead(
    client: &Client,
    routed: &Routed,
    first: &Result<Asked, Failure>,
) -> Option<(u8, Routed)> {
    let code = match first {
        Ok((response, ..)) => code_of(response)?,
        Err(Failure::Status(status)) => status.code,
        Err(Failure::Gone) => return None,
    };
    let in_time = client.deadline.at().is_none_or(|at| at > Instant::now());
    let other = routed
        .instead(code)
        .filter(|_| in_time && client.message.is_kept());
    other.map(|other| (code, other))
}

/// The code of an answer that is nothing but a failure.
fn code_of(response: &Response<RecvStream>) -> Option<u8> {
    if response.status() != StatusCode::OK {
        return Some(Status::of_http(response.status(), "").code);
    }
    if !response.body().is_end_stream() {
        return None;
    }
    let code = response.headers().get(GRPC_STATUS).map(parse_code)?;
    (code != Code::Ok as u8).then_some(code)
}
