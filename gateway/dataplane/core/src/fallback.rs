//! An arm's failure that another arm answers, where the route says so.

use std::time::Instant;

use crate::client::{Client, Failure};
use crate::routed::Routed;
use crate::status::Status;
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
        Ok((response, ..)) => Status::of_answer(response, "")?.code,
        Err(Failure::Status(status)) => status.code,
        Err(Failure::Gone) => return None,
    };
    let in_time = client.deadline.at().is_none_or(|at| at > Instant::now());
    let other = routed
        .instead(code)
        .filter(|_| in_time && client.message.is_kept());
    other.map(|other| (code, other))
}
