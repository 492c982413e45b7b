//! `grpc.health.v1`.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use stagegate_wire::local::{health, health_service, Serving};
use stagegate_wire::names::Names;

use crate::answer::takes_requests;
use crate::client::{Client, Failure};
use crate::forward;
use crate::joined::Joined;
use crate::message::malformed;
use crate::status::{answer_head, Code, Status};
use crate::worker::Worker;

/// How often the state of a watched model is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The state of a service; `None` where there is none of that name.
///
/// A service is the server (by no name, the inference service's, or `readiness`), the process
/// (`liveness`), or a logical model.
fn state(worker: &Worker, service: &[u8]) -> Option<Serving> {
    let serving = match service {
        b"" | b"inference.GRPCInferenceService" | b"readiness" => worker.shared.is_ready(),
        b"liveness" => true,
        model => match worker.resolve(Names::of(model, b""), &http::HeaderMap::new()) {
            Ok(routed) => worker.shared.is_ready() && takes_requests(&routed.version),
            Err(status) if status.code == Code::FailedPrecondition as u8 => false,
            Err(_) => return None,
        },
    };
    Some(if serving {
        Serving::Serving
    } else {
        Serving::NotServing
    })
}

/// `Check`.
pub(crate) fn check(worker: &Worker, request: &[u8]) -> Result<Bytes, Status> {
    let service = health_service(request).map_err(malformed)?;
    let unknown = || {
        let name = String::from_utf8_lossy(service);
        Status::new(
            Code::NotFound,
            format!("there is no service or model '{name}'"),
        )
    };
    state(worker, service).map(health).ok_or_else(unknown)
}

/// `Watch`: the state now and at every change, until the client or the gateway ends.
pub(crate) async fn watch(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    let request = forward::receive_whole(worker, client).await?;
    if !client.has_deadline {
        client.deadline.set(None);
    }
    let service = health_service(&request).map_err(malformed)?;
    let mut ready = worker.shared.ready.subscribe();
    client.head(answer_head(), false)?;
    let mut told = None;
    loop {
        let now = state(worker, service).unwrap_or(Serving::ServiceUnknown);
        if told != Some(now) {
            client
                .send(Joined::message(health(now), Bytes::new()))
                .await?;
            told = Some(now);
        }
        if worker.shared.is_draining() {
            return Err(Status::unavailable("the gateway is shutting down").into());
        }
        let mut changed = pin!(async { ready.changed().await.is_ok() });
        let mut tick = pin!(tokio::time::sleep(LOOK));
        client
            .wait(|_, cx| match changed.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => tick.as_mut().poll(cx),
            })
            .await?;
    }
}
