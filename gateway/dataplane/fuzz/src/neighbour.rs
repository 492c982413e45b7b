//! A backend that answers every call, and a client that does nothing wrong.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use stagegate_wire::encode::put_len;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// `ModelInfer`.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const PATIENCE: Duration = Duration::from_secs(10);
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// A gRPC message with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}

/// Start a backend in a thread that lives as long as the process; gives its address.
///
/// # Errors
/// There is no port, or no thread.
pub fn backend() -> io::Result<SocketAddr> {
    let runtime = runtime()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    std::thread::Builder::new()
        .name("backend".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(serve(tcp));
                }
            });
        })?;
    Ok(address)
}

async fn serve(tcp: TcpStream) {
    let Ok(mut h2) = h2::server::handshake(tcp).await else {
        return;
    };
    while let Some(Ok((request, respond))) = h2.accept().await {
        tokio::spawn(answer(request.into_body(), respond));
    }
}

/// Read all and answer one message; what was reset is let go.
async fn answer(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Option<()> {
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        body.flow_control().release_capacity(piece.len()).ok()?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", GRPC);
    let mut send = respond.send_response(head, false).ok()?;
    let mut message = Vec::new();
    put_len(&mut message, 1, b"digits.3.0a1b2c3d");
    put_len(&mut message, 2, b"1");
    send.send_data(framed(&message), false).ok()?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers).ok()
}

/// A client on one connection of its own, which must never see an error.
pub struct Neighbour {
    runtime: Runtime,
    send: SendRequest<Bytes>,
}

impl Neighbour {
    /// Connect.
    ///
    /// # Errors
    /// Nobody listens there, or not in HTTP/2.
    pub fn new(port: u16) -> Result<Self, String> {
        let runtime = runtime().map_err(|error| error.to_string())?;
        let send = runtime.block_on(connect(port))?;
        Ok(Self { runtime, send })
    }

    /// Ask `digits` once.
    ///
    /// # Errors
    /// Anything but a whole answer with status 0.
    pub fn ask(&mut self) -> Result<(), String> {
        let asking = ask(self.send.clone());
        let asked = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, asking).await });
        asked.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
    }
}

async fn connect(port: u16) -> Result<SendRequest<Bytes>, String> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let (send, connection) = h2::client::handshake(tcp)
        .await
        .map_err(|error| format!("no HTTP/2: {error}"))?;
    tokio::spawn(connection);
    Ok(send)
}

async fn ask(send: SendRequest<Bytes>) -> Result<(), String> {
    let broke = |error: h2::Error| format!("the call broke: {error}");
    let mut request = Request::post(format!("http://gateway{INFER}")).version(Version::HTTP_2);
    if let Some(headers) = request.headers_mut() {
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("content-type", GRPC);
    }
    let request = request.body(()).map_err(|error| error.to_string())?;
    let mut send = send.ready().await.map_err(broke)?;
    let (response, mut stream) = send.send_request(request, false).map_err(broke)?;
    let mut message = Vec::new();
    put_len(&mut message, 1, b"digits");
    stream.send_data(framed(&message), true).map_err(broke)?;
    let response = response.await.map_err(broke)?;
    let status = response.headers().get("grpc-status").cloned();
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(piece) = body.data().await {
        bytes += piece.map_err(broke)?.len();
    }
    let trailers = body.trailers().await.map_err(broke)?;
    let status = trailers
        .and_then(|trailers| trailers.get("grpc-status").cloned())
        .or(status);
    match status {
        Some(code) if code == "0" && bytes > 0 => Ok(()),
        other => Err(format!("status {other:?} and {bytes} bytes")),
    }
}
