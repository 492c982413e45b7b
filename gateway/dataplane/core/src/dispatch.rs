//! From the path of a request to what answers it.

use std::rc::Rc;

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
use crate::status::{unsupported_media_type, Code, Status};
use crate::worker::Worker;
use crate::{answer, headers, health, reflection, stream, unary};

const INFERENCE: &str = "/inference.GRPCInferenceService/";

/// Answer one call of a client.
pub(crate) async fn handle(worker: Rc<Worker>, open: OpenStream, mut client: Box<Client>) {
    // The hot call is looked for first, and its future is the only one that is not boxed.
    let outcome = if client.path.path() == "/inference.GRPCInferenceService/ModelInfer" {
        unary::infer(&worker, &mut client).await
    } else {
        Box::pin(others(&worker, &mut client)).await
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
    let refusal = if !headers::is_grpc(&head.headers) {
        unsupported_media_type()
    } else if head.method != Method::POST {
        Status::new(Code::Unimplemented, "gRPC calls are HTTP/2 POST requests").trailers_only()
    } else {
        let path = head.uri.into_parts().path_and_query;
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let client = Client::new(path, head.headers, body, respond, &worker.deadlines);
        return Some(Box::new(client));
    };
    // Where this fails the client is gone already.
    let _ = respond.send_response(refusal, true);
    None
}

async fn others(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    let path = client.path.path();
    match path.strip_prefix(INFERENCE).unwrap_or(path) {
        "ModelStreamInfer" => stream::infer(worker, client).await,
        "ModelMetadata" => forward::about_model(worker, client, About::Metadata).await,
        "ModelConfig" => forward::about_model(worker, client, About::Config).await,
        "ModelStatistics" => forward::about_model(worker, client, About::Statistics).await,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
            reflection::info(worker, client).await
        }
        "/grpc.health.v1.Health/Watch" => health::watch(worker, client).await,
        _ => match maker(path) {
            Some(make) => {
                let request = forward::receive_whole(worker, client).await?;
                client.reply(make(worker, &request)?).await
            }
            None => not_ours(worker, client).await,
        },
    }
}

type Maker = fn(&Worker, &[u8]) -> Result<Bytes, Status>;

/// What makes the answer of a unary call that the gateway answers itself.
fn maker(path: &str) -> Option<Maker> {
    Some(match path.strip_prefix(INFERENCE).unwrap_or(path) {
        "ServerLive" => |_, _| Ok(answer::server_live()),
        "ServerReady" => |worker, _| Ok(answer::server_ready(worker)),
        "ServerMetadata" => |worker, _| Ok(answer::server_metadata(worker)),
        "ModelReady" => answer::model_ready,
        "RepositoryIndex" => answer::repository_index,
        "/grpc.health.v1.Health/Check" => health::check,
        _ => return None,
    })
}

async fn not_ours(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    match worker.shared.allow.judge(client.path.path()) {
        Verdict::Open => forward::pass_through(worker, client).await,
        Verdict::Closed(text) => Err(Status::new(Code::Unimplemented, text).into()),
    }
}
