//! From the path of a request to what answers it.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::RecvStream;
use http::uri::PathAndQuery;
use http::{Method, Request};

use crate::allow::Verdict;
use crate::client::{Client, Failure};
use crate::connection::OpenStream;
use crate::forward::{self, About};
use crate::joined::Joined;
use crate::status::{Code, Status};
use crate::worker::Worker;
use crate::{answer, headers, health, opened, reflection, refusal, statistics, stream, unary};

const INFERENCE: &str = "/inference.GRPCInferenceService";
const HEALTH: &str = "/grpc.health.v1.Health";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection";

/// Answer one call of a client.
pub(crate) async fn handle(worker: &Worker, open: &OpenStream, client: &mut Client) {
    #[cfg(feature = "failpoints")]
    crate::failpoint::hit(&client.headers);
    // The hot call is looked for first, and its future is the only one that is not boxed.
    let outcome = if client.path.as_str() == "/inference.GRPCInferenceService/ModelInfer" {
        unary::infer(worker, client).await
    } else {
        Box::pin(others(worker, client)).await
    };
    match outcome {
        Ok(()) => {}
        Err(Failure::Status(status)) => client.finish(&status),
        Err(Failure::Gone) => open.control.count_reset(),
    }
}

/// The call of a request. What is no gRPC call at all is answered here.
pub(crate) fn admit(
    worker: &Worker,
    request: Request<RecvStream>,
    mut respond: SendResponse<Joined>,
) -> Option<Box<Client>> {
    let (head, body) = request.into_parts();
    if !headers::is_grpc(&head.headers) {
        refusal::unsupported_media_type(&head.method, body, respond);
        return None;
    }
    let refusal = if head.method != Method::POST {
        Status::new(Code::Unimplemented, "gRPC calls are HTTP/2 POST requests").trailers_only()
    } else if let Some(name) = headers::broken_binary(&head.headers) {
        let text = format!("the metadata '{name}' is not base64, as a name in -bin demands");
        Status::new(Code::InvalidArgument, text).trailers_only()
    } else {
        let path = head.uri.into_parts().path_and_query;
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let client = Client::new(path, head.headers, body, respond, worker);
        return Some(Box::new(client));
    };
    // Where this fails the client is gone already.
    let _ = respond.send_response(refusal, true);
    None
}

async fn others(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    match split(&client.path) {
        (INFERENCE, "ModelStreamInfer") => stream::infer(worker, client).await,
        (INFERENCE, "ModelMetadata") => forward::about_model(worker, client, About::Metadata).await,
        (INFERENCE, "ModelConfig") => forward::about_model(worker, client, About::Config).await,
        (INFERENCE, "ModelStatistics") => statistics::statistics(worker, client).await,
        (REFLECTION | REFLECTION_ALPHA, "ServerReflectionInfo") => {
            reflection::info(worker, client).await
        }
        (HEALTH, "Watch") => health::watch(worker, client).await,
        (service, method) => match maker(service, method) {
            Some(make) => {
                let request = forward::receive_whole(worker, client).await?;
                client.reply(make(worker, &request)?).await
            }
            None => not_ours(worker, client).await,
        },
    }
}

/// Service and method of a path. All of it is looked at, so that no path leads to a method but the one
/// that the protocol's definition gives it.
fn split(path: &PathAndQuery) -> (&str, &str) {
    path.as_str().rsplit_once('/').unwrap_or_default()
}

type Maker = fn(&Worker, &[u8]) -> Result<Bytes, Status>;

/// What makes the answer of a unary call that the gateway answers itself.
fn maker(service: &str, method: &str) -> Option<Maker> {
    Some(match (service, method) {
        (INFERENCE, "ServerLive") => |_, _| Ok(answer::server_live()),
        (INFERENCE, "ServerReady") => |worker, _| Ok(answer::server_ready(worker)),
        (INFERENCE, "ServerMetadata") => |worker, _| Ok(answer::server_metadata(worker)),
        (INFERENCE, "ModelReady") => answer::model_ready,
        (INFERENCE, "RepositoryIndex") => answer::repository_index,
        (HEALTH, "Check") => health::check,
        _ => return None,
    })
}

async fn not_ours(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    match worker.shared.allow.judge(client.path.as_str()) {
        Verdict::Open => opened::pass_through(worker, client).await,
        Verdict::Closed(text) => Err(Status::new(Code::Unimplemented, text).into()),
    }
}
