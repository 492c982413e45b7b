//! A Triton that only does what it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use stagegate_wire::encode::{put_len, put_number, put_varint};
use stagegate_wire::fields::Fields;
use stagegate_wire::names::scan_message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::framed;

/// What a backend saw of one request.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    /// Prefix and message.
    pub body: Bytes,
    pub ended_well: bool,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    /// Triton's names of the models that it has statistics of.
    models: Mutex<Vec<String>>,
    cancelled: AtomicUsize,
    connections: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// Its one instance, which works on one request at a time.
    instance: tokio::sync::Mutex<()>,
    refused: AtomicBool,
    /// What inferences get that ask for nothing.
    usual: Mutex<String>,
    frozen: AtomicBool,
    thawed: Notify,
    goaway: Notify,
    stop: Notify,
}

/// A backend on a port of its own; ends with the test.
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
}

impl Backend {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    pub async fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Have statistics of this model.
    pub fn has(&self, triton_name: &str) {
        self.state
            .models
            .lock()
            .unwrap()
            .push(triton_name.to_owned());
    }

    /// Do this for inferences and streams that ask for nothing themselves.
    pub fn does(&self, what: &str) {
        what.clone_into(&mut self.state.usual.lock().unwrap());
    }

    /// Neither read nor write any more, as a process that was stopped; new connections are left waiting.
    pub fn freeze(&self) {
        self.state.frozen.store(true, SeqCst);
        // Whoever waits for the next frame looks at it.
        self.state.goaway.notify_waiters();
    }

    pub fn thaw(&self) {
        self.state.frozen.store(false, SeqCst);
        self.state.thawed.notify_waiters();
    }

    /// Inferences that came.
    pub fn inferences(&self) -> usize {
        let seen = self.state.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.path.ends_with("/ModelInfer"))
            .count()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }

    /// Requests that were reset by the gateway.
    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(SeqCst)
    }

    /// Most unary requests that it ever answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state.most_at_once.load(SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// Say GOAWAY on every connection, in two steps, as a server does that shuts down.
    pub fn goaway(&self) {
        self.state.goaway.notify_waiters();
    }

    /// Close the port and every connection.
    pub fn stop(&self) {
        self.state.stop.notify_waiters();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        tokio::select! {
            () = state.stop.notified() => return,
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { return };
                tokio::spawn(serve(tcp, Arc::clone(&state)));
            }
        }
    }
}

async fn until_thawed(state: &State) {
    loop {
        let thawed = state.thawed.notified();
        if !state.frozen.load(SeqCst) {
            return;
        }
        thawed.await;
    }
}

async fn serve(tcp: TcpStream, state: Arc<State>) {
    until_thawed(&state).await;
    tcp.set_nodelay(true).unwrap();
    let mut builder = h2::server::Builder::new();
    let builder = builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    let Ok(mut h2) = builder.handshake::<_, Bytes>(tcp).await else {
        return;
    };
    state.connections.fetch_add(1, SeqCst);
    let (goaway, stop) = (state.goaway.notified(), state.stop.notified());
    tokio::pin!(goaway, stop);
    let mut going = false;
    loop {
        until_thawed(&state).await;
        tokio::select! {
            () = &mut stop => break,
            () = &mut goaway, if !going => {
                if state.frozen.load(SeqCst) {
                    goaway.set(state.goaway.notified());
                    continue;
                }
                going = true;
                h2.graceful_shutdown();
            }
            accepted = h2.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                tokio::spawn(answer(Arc::clone(&state), request, respond));
            }
        }
    }
    state.connections.fetch_sub(1, SeqCst);
}

async fn answer(state: Arc<State>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let is_infer = request.uri().path().ends_with("/ModelInfer");
    let is_stream = request.uri().path().ends_with("/ModelStreamInfer");
    let usual = state.usual.lock().unwrap().clone();
    let is_copy = request.headers().contains_key("stagegate-shadow");
    let what = request
        .headers()
        .get(if is_copy { "x-do-copy" } else { "x-do" })
        .map_or(if is_infer || is_stream { &*usual } else { "" }, |value| {
            value.to_str().unwrap()
        })
        .to_owned();
    let refuses = what == "refuse-once" && !state.refused.swap(true, SeqCst);
    if refuses || what == "refuse" {
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    if request.uri().path().ends_with("ModelStreamInfer") {
        return stream(state, request, respond, &what).await;
    }
    let (head, body) = request.into_parts();
    let mut seen = Seen {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        ..Seen::default()
    };
    if what == "early" {
        reply(&mut respond, &message_for(b""), &what).await;
        // The client is told in so many words that the rest is not wanted.
        drop(body);
        return;
    }
    let Some(body) = read(body).await else {
        state.cancelled.fetch_add(1, SeqCst);
        return;
    };
    (seen.body, seen.ended_well) = (body, true);
    let (body, path) = (seen.body.clone(), seen.path.clone());
    state.seen.lock().unwrap().push(seen);
    if path.ends_with("ModelMetadata") {
        let mut metadata = message_for(&body);
        put_len(&mut metadata, 4, &tensor("INPUT", -1));
        return reply(&mut respond, &metadata, &what).await;
    }
    if path.ends_with("ModelStatistics") {
        let mut statistics = Vec::new();
        let asked = scan_message(&body[5..]).unwrap().model;
        for model in state.models.lock().unwrap().iter() {
            if asked.is_empty() || asked == model.as_bytes() {
                put_len(&mut statistics, 1, &counted(model));
            }
        }
        return reply(&mut respond, &statistics, &what).await;
    }
    let others = state.at_once.fetch_add(1, SeqCst);
    state.most_at_once.fetch_max(others + 1, SeqCst);
    act(&state, respond, &body, &what).await;
    state.at_once.fetch_sub(1, SeqCst);
}

/// `ModelStatistics` of a model that answered three requests.
fn counted(model: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_len(&mut out, 1, model.as_bytes());
    put_len(&mut out, 2, b"1");
    put_number(&mut out, 4, 3);
    out
}

async fn act(state: &State, mut respond: SendResponse<Bytes>, body: &Bytes, what: &str) {
    match what.split_once('=').map_or(what, |(word, _)| word) {
        "wait" => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            state.cancelled.fetch_add(1, SeqCst);
        }
        "work" => {
            let _mine = state.instance.lock().await;
            tokio::time::sleep(Duration::from_millis(number(what) as u64)).await;
            reply(&mut respond, &message_for(body), what).await;
        }
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(number(what) as u64)).await;
            reply(&mut respond, &message_for(body), what).await;
        }
        "error" => {
            let mut head = Response::new(());
            let text = "expected 2 inputs but got 0 inputs for model 'digits.1.abc' at 50%25";
            head.headers_mut()
                .insert("content-type", HeaderValue::from_static("application/grpc"));
            head.headers_mut()
                .insert("grpc-status", HeaderValue::from_static("3"));
            head.headers_mut()
                .insert("grpc-message", HeaderValue::from_static(text));
            head.headers_mut()
                .insert("grpc-status-details-bin", HeaderValue::from_static("AAE"));
            respond.send_response(head, true).unwrap();
        }
        "status" => {
            let (code, text) = what["status=".len()..].split_once(' ').unwrap();
            let mut head = Response::new(());
            let headers = head.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", code.parse().unwrap());
            headers.insert("grpc-message", text.parse().unwrap());
            respond.send_response(head, true).unwrap();
        }
        "http" => {
            let mut head = Response::new(());
            *head.status_mut() = (number(what) as u16).try_into().unwrap();
            respond.send_response(head, true).unwrap();
        }
        "reset" => respond.send_reset(Reason::from(number(what) as u32)),
        _ => reply(&mut respond, &message_for(body), what).await,
    }
}

/// The number after `=`.
fn number(what: &str) -> usize {
    what.split_once('=').unwrap().1.parse().unwrap()
}

/// A `ModelInferResponse` that tells the names of the request, as Triton's own.
fn message_for(body: &[u8]) -> Vec<u8> {
    let names = scan_message(body.get(5..).unwrap_or_default()).unwrap();
    let mut out = Vec::new();
    put_len(&mut out, 1, names.model);
    put_len(&mut out, 2, b"1");
    put_len(&mut out, 3, b"id-1");
    // Where tensors came in, one goes out.
    let mut fields = Fields::new(body.get(5..).unwrap_or_default());
    if fields.any(|field| field.unwrap().is(5)) {
        put_len(&mut out, 5, &tensor("OUTPUT", 1));
        put_len(&mut out, 6, &[0; 16]);
    }
    out
}

/// A tensor of rows of four floats.
fn tensor(name: &str, rows: i64) -> Vec<u8> {
    let (mut out, mut shape) = (Vec::new(), Vec::new());
    put_len(&mut out, 1, name.as_bytes());
    put_len(&mut out, 2, b"FP32");
    put_varint(&mut shape, rows.cast_unsigned());
    put_varint(&mut shape, 4);
    put_len(&mut out, 3, &shape);
    out
}

async fn reply(respond: &mut SendResponse<Bytes>, message: &[u8], what: &str) {
    let mut message = message.to_vec();
    if what.starts_with("large=") {
        put_len(&mut message, 6, &vec![0x5a; number(what)]);
    }
    let mut head = Response::new(());
    head.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    head.headers_mut()
        .insert("x-initial", HeaderValue::from_static("from the backend"));
    head.headers_mut()
        .insert("stagegate-version", HeaderValue::from_static("a lie"));
    let mut bytes = framed(&message);
    if what == "gzip" {
        head.headers_mut()
            .insert("grpc-encoding", HeaderValue::from_static("gzip"));
        bytes = framed(&gzip(&message));
        bytes[0] = 1;
    }
    match what {
        "empty" => {
            head.headers_mut().extend(trailers("0"));
            respond.send_response(head, true).unwrap();
            return;
        }
        "nothing" => bytes.clear(),
        "twice" => bytes = [&bytes[..], &bytes].concat(),
        _ => {}
    }
    let mut send = respond.send_response(head, false).unwrap();
    for chunk in bytes.chunks(if what == "split" { 1 } else { 16 << 10 }) {
        if send_all(&mut send, chunk).await.is_none() {
            return;
        }
    }
    match what {
        "no-trailers" => {
            let _ = send.send_data(Bytes::new(), true);
        }
        "cut" => send.send_reset(Reason::INTERNAL_ERROR),
        _ => {
            let _ = send.send_trailers(trailers("0"));
        }
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn trailers(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("x-trailing", HeaderValue::from_static("verbatim"));
    trailers.insert("x-trailing-bin", HeaderValue::from_static("AAEC"));
    trailers
}

async fn send_all(send: &mut SendStream<Bytes>, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let room = match send.capacity() {
            0 => std::future::poll_fn(|cx| send.poll_capacity(cx))
                .await?
                .ok()?,
            room => room,
        };
        let (part, rest) = bytes.split_at(room.min(bytes.len()));
        send.send_data(Bytes::copy_from_slice(part), false).ok()?;
        bytes = rest;
    }
    Some(())
}

/// The whole body; `None` where it was reset.
async fn read(mut body: RecvStream) -> Option<Bytes> {
    let mut out = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        out.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    Some(out.into())
}

/// One answer for each message: the names it came with, or what `x-do` asks for.
async fn stream(
    state: Arc<State>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    what: &str,
) {
    let (head, mut body) = request.into_parts();
    let at = {
        let mut seen = state.seen.lock().unwrap();
        seen.push(Seen {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            ..Seen::default()
        });
        seen.len() - 1
    };
    if what.starts_with("reset=") {
        return respond.send_reset(Reason::from(number(what) as u32));
    }
    if what.starts_with("status=") || what == "wait" {
        // As Triton, which answers to the first message and not before.
        body.data().await;
        return act(&state, respond, &Bytes::new(), what).await;
    }
    let mut answer = Response::new(());
    answer
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(answer, false).unwrap();
    let mut buffer = Vec::new();
    while let Some(data) = body.data().await {
        let Ok(data) = data else {
            state.cancelled.fetch_add(1, SeqCst);
            return;
        };
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while let Some(message) = take_message(&mut buffer) {
            // What it does may change while a stream is open.
            let usual = state.usual.lock().unwrap().clone();
            let what = if what.is_empty() { &*usual } else { what };
            if send_all(&mut send, &framed(&stream_answer(&message, what)))
                .await
                .is_none()
            {
                state.cancelled.fetch_add(1, SeqCst);
                return;
            }
        }
    }
    state.seen.lock().unwrap()[at].ended_well = true;
    let _ = send.send_trailers(trailers(if what == "end-badly" { "9" } else { "0" }));
}

fn take_message(held: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = u32::from_be_bytes(held.get(1..5)?.try_into().unwrap()) as usize;
    if held.len() < 5 + len {
        return None;
    }
    let rest = held.split_off(5 + len);
    let message = held.split_off(5);
    *held = rest;
    Some(message)
}

fn stream_answer(message: &[u8], what: &str) -> Vec<u8> {
    let names = scan_message(message).unwrap();
    let mut out = Vec::new();
    if what == "stream-error" {
        let text = format!("model {} broke", String::from_utf8_lossy(names.model));
        return stagegate_wire::stream::error_answer(&text, b"id-1");
    }
    if let Some(text) = what.strip_prefix("stream-error=") {
        return stagegate_wire::stream::error_answer(text, b"id-1");
    }
    let mut response = Vec::new();
    put_len(&mut response, 1, names.model);
    put_len(&mut response, 2, b"1");
    put_len(&mut response, 3, b"id-1");
    put_len(&mut out, 2, &response);
    out
}
