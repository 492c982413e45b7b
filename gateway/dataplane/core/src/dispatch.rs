//! From the path of a request to what answers it.

use std::rc::Rc;
use std::time::Instant;

use h2::server::SendResponse;
use h2::RecvStream;
use http::request::Parts;
use http::{Method, Request};

use crate::allow::Verdict;
use crate::client::{Client, Failure};
use crate::connection::OpenStream;
use crate::forward::{self, About};
use crate::joined::Joined;
use crate::status::{unsupported_media_type, Code, Status};
use crate::worker::Worker;
use crate::{answer, headers, health, reflection, stream, unary};

/// Answer one stream of a client.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    open: OpenStream,
    request: Request<RecvStream>,
    respond: SendResponse<Joined>,
) {
    let mut client = Client::new(respond, &worker.deadlines, Instant::now());
    let outcome = match admit(&mut client, request) {
        Ok(Some((head, body))) => route(&worker, &mut client, head, body).await,
        Ok(None) => return,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => {}
        Err(Failure::Status(status)) => client.finish(&status),
        Err(Failure::Gone) => open.control.count_reset(),
    }
}

/// Whether it is a gRPC request at all; if not, it is answered.
fn admit(
    client: &mut Client<'_>,
    request: Request<RecvStream>,
) -> Result<Option<(Parts, RecvStream)>, Failure> {
    let (head, body) = request.into_parts();
    if !headers::is_grpc(&head.headers) {
        client.head(unsupported_media_type(), true)?;
        return Ok(None);
    }
    if head.method != Method::POST {
        return Err(Status::new(Code::Unimplemented, "gRPC calls are HTTP/2 POST requests").into());
    }
    Ok(Some((head, body)))
}

async fn route(
    worker: &Rc<Worker>,
    client: &mut Client<'_>,
    head: Parts,
    body: RecvStream,
) -> Result<(), Failure> {
    // The hot call is looked for first, and its future is the only one that is not boxed.
    if head.uri.path() == "/inference.GRPCInferenceService/ModelInfer" {
        return unary::infer(worker, client, head, body).await;
    }
    Box::pin(others(worker, client, head, body)).await
}

async fn others(
    worker: &Rc<Worker>,
    client: &mut Client<'_>,
    head: Parts,
    body: RecvStream,
) -> Result<(), Failure> {
    let path = head.uri.path();
    match path
        .strip_prefix("/inference.GRPCInferenceService/")
        .unwrap_or(path)
    {
        "ModelStreamInfer" => stream::infer(worker, client, head, body).await,
        "ModelMetadata" => forward::about_model(worker, client, head, body, About::Metadata).await,
        "ModelConfig" => forward::about_model(worker, client, head, body, About::Config).await,
        "ModelStatistics" => {
            forward::about_model(worker, client, head, body, About::Statistics).await
        }
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
            reflection::info(worker, client, &head.headers, body).await
        }
        "/grpc.health.v1.Health/Watch" => health::watch(worker, client, head, body).await,
        _ => answered_here(worker, client, head, body).await,
    }
}

async fn answered_here(
    worker: &Rc<Worker>,
    client: &mut Client<'_>,
    head: Parts,
    body: RecvStream,
) -> Result<(), Failure> {
    let path = head.uri.path();
    let make: fn(&Worker, &[u8]) -> Result<_, Status> = match path
        .strip_prefix("/inference.GRPCInferenceService/")
        .unwrap_or(path)
    {
        "ServerLive" => |_, _| Ok(answer::server_live()),
        "ServerReady" => |worker, _| Ok(answer::server_ready(worker)),
        "ServerMetadata" => |worker, _| Ok(answer::server_metadata(worker)),
        "ModelReady" => answer::model_ready,
        "RepositoryIndex" => answer::repository_index,
        "/grpc.health.v1.Health/Check" => health::check,
        _ => return not_ours(worker, client, head, body).await,
    };
    let request = forward::receive_whole(worker, client, head, body).await?;
    let answer = make(worker, &request)?;
    client.reply(answer).await
}

async fn not_ours(
    worker: &Rc<Worker>,
    client: &mut Client<'_>,
    head: Parts,
    body: RecvStream,
) -> Result<(), Failure> {
    match worker.shared.allow.judge(head.uri.path()) {
        Verdict::Open => forward::pass_through(worker, client, head, body).await,
        Verdict::Closed(text) => Err(Status::new(Code::Unimplemented, text).into()),
    }
}
