//! A gRPC server with one constant answer to every call, cheap enough not to be the bottleneck.
//!
//! `constant-backend [--port 0] [--model m] [--version 1] [--answer-bytes 64] [--listed-as m]` prints
//! `{"port": P}` when it listens, answers until stdin ends, then prints `{"requests": N}`. It says that
//! it is ready and lists one model, so that a whole gateway can stand in front of it.
//! It reads a request to its end before it answers, or not at all where the request asks for that.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{spawn_local, LocalSet};

use stagegate_bench::args::Args;
use stagegate_bench::message::{answer, index, yes, EARLY_HEADER, MODEL_INFER};
use stagegate_bench::{lines, tuning};

/// What every request gets, and how many there were.
struct Backend {
    body: Bytes,
    index: Bytes,
    trailers: HeaderMap,
    requests: Cell<u64>,
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("constant-backend: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let mut args = Args::from_env()?;
    let port: u16 = args.take("port", 0)?;
    let model: String = args.take("model", "m".to_owned())?;
    let version: String = args.take("version", "1".to_owned())?;
    let size: usize = args.take("answer-bytes", 64)?;
    let listed_as: String = args.take("listed-as", model.clone())?;
    args.finish()?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let backend = Rc::new(Backend {
        body: answer(&model, &version, size),
        index: index(&listed_as, &version),
        trailers,
        requests: Cell::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, serve(port, backend))
}

async fn serve(port: u16, backend: Rc<Backend>) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    lines::say(&format!("{{\"port\": {}}}", listener.local_addr()?.port()))?;
    let mut commands = lines::commands();
    while let Some(accepted) = next(&listener, &mut commands).await {
        let (socket, _) = accepted?;
        let backend = Rc::clone(&backend);
        spawn_local(async move {
            // A client that goes away ends its connection with an error; the next one is as good.
            let _ = connection(socket, backend).await;
        });
    }
    lines::say(&format!("{{\"requests\": {}}}", backend.requests.get()))?;
    Ok(())
}

/// The next connection; `None` when stdin has ended.
async fn next(
    listener: &TcpListener,
    commands: &mut UnboundedReceiver<String>,
) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    poll_fn(|cx| {
        while let Poll::Ready(line) = commands.poll_recv(cx) {
            if line.is_none() {
                return Poll::Ready(None);
            }
        }
        listener.poll_accept(cx).map(Some)
    })
    .await
}

async fn connection(socket: TcpStream, backend: Rc<Backend>) -> Result<(), Box<dyn Error>> {
    socket.set_nodelay(true)?;
    let mut connection = tuning::server().handshake(socket).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        backend.requests.set(backend.requests.get() + 1);
        let body = answer_for(&backend, request.uri().path());
        if request.headers().contains_key(EARLY_HEADER) {
            let _ = reply(&backend, body, respond);
        } else {
            let backend = Rc::clone(&backend);
            spawn_local(async move {
                let _ = read_and_reply(&backend, body, request, respond).await;
            });
        }
    }
    Ok(())
}

fn answer_for(backend: &Backend, path: &str) -> Bytes {
    if path == MODEL_INFER {
        return backend.body.clone();
    }
    match path.rsplit('/').next() {
        Some("RepositoryIndex") => backend.index.clone(),
        Some("ServerLive" | "ServerReady" | "ModelReady") => yes(),
        _ => backend.body.clone(),
    }
}

async fn read_and_reply(
    backend: &Backend,
    answer: Bytes,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(piece) = body.data().await {
        let len = piece?.len();
        body.flow_control().release_capacity(len)?;
    }
    reply(backend, answer, respond)
}

fn reply(
    backend: &Backend,
    answer: Bytes,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(answer, false)?;
    stream.send_trailers(backend.trailers.clone())
}
