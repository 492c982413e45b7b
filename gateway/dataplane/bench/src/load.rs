//! The closed loop: each of C connections keeps M requests in flight, and each answer is checked.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::SendStream;
use http::{HeaderMap, HeaderValue, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{spawn_local, JoinSet};
use tokio::time::timeout;

use crate::message::{Expected, EARLY_HEADER, MODEL_INFER, USER_HEADER};
use crate::trust::Trust;
use crate::tuning;

/// What to send, where, and what must come back.
pub struct Plan {
    /// The proxy, or the backend itself.
    pub target: SocketAddr,
    /// Speak TLS, and trust what this says. `None` for plaintext.
    pub tls: Option<Trust>,
    /// Connections.
    pub connections: usize,
    /// Requests in flight on each of them.
    pub streams: usize,
    /// One framed request.
    pub body: Bytes,
    /// Whether the backend is to answer before it has read the body.
    pub early: bool,
    /// Who asks: requests name these in turn, for proxies that keep a caller on its arm.
    pub users: Users,
    /// What a good answer carries.
    pub expected: Expected,
    /// How long one run may take; what is missing then counts as bad.
    pub limit: Duration,
}

/// Callers with a name, each in a header value that is made once.
pub struct Users {
    names: Vec<HeaderValue>,
    next: Cell<usize>,
}

impl Users {
    /// So many callers; with none, requests name nobody.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let name = |number| HeaderValue::from_str(&format!("user-{number}")).ok();
        Self {
            names: (0..count).filter_map(name).collect(),
            next: Cell::new(0),
        }
    }

    fn next(&self) -> Option<HeaderValue> {
        let at = self.next.get();
        let name = self.names.get(at)?.clone();
        self.next.set((at + 1) % self.names.len());
        Some(name)
    }
}

/// What one run found.
#[derive(Default)]
pub struct Outcome {
    /// Answers with HTTP 200, grpc-status 0 and the expected message.
    pub good: u64,
    /// All others.
    pub bad: u64,
    /// What was wrong with the first bad one.
    pub first_bad: Option<String>,
    /// Seconds on the clock.
    pub seconds: f64,
    /// Microseconds of each good request.
    pub latencies_us: Vec<f64>,
}

impl Outcome {
    /// One line of JSON.
    pub fn to_json(mut self) -> String {
        self.latencies_us.sort_by(f64::total_cmp);
        let count = self.latencies_us.len();
        let mean = self.latencies_us.iter().sum::<f64>() / count.max(1) as f64;
        let at = |percent: usize| {
            self.latencies_us
                .get(count * percent / 100)
                .copied()
                .unwrap_or(0.0)
        };
        format!(
            "{{\"good\": {}, \"bad\": {}, \"first_bad\": {}, \"seconds\": {:.6}, \
             \"mean_us\": {mean:.3}, \"p50_us\": {:.3}, \"p99_us\": {:.3}}}",
            self.good,
            self.bad,
            self.first_bad
                .as_deref()
                .map_or_else(|| "null".to_owned(), json_string),
            self.seconds,
            at(50),
            at(99),
        )
    }
}

/// A JSON string literal of `text`.
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Open connections, ready for any number of runs. Lives in a `LocalSet`.
pub struct Load {
    plan: Rc<Plan>,
    senders: Vec<SendRequest<Bytes>>,
}

impl Load {
    /// Opens the connections.
    pub async fn connect(plan: Plan) -> Result<Self, String> {
        let mut senders = Vec::with_capacity(plan.connections);
        for _ in 0..plan.connections {
            let sender = connect(&plan).await;
            senders.push(
                sender.map_err(|error| format!("cannot connect to {}: {error}", plan.target))?,
            );
        }
        Ok(Self {
            plan: Rc::new(plan),
            senders,
        })
    }

    /// Sends `requests` requests in all and checks their answers.
    pub async fn run(&self, requests: u64) -> Outcome {
        let left = Rc::new(Cell::new(requests));
        let outcome = Rc::new(RefCell::new(Outcome::default()));
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for sender in &self.senders {
            for _ in 0..self.plan.streams {
                let (left, outcome) = (Rc::clone(&left), Rc::clone(&outcome));
                workers.spawn_local(worker(Rc::clone(&self.plan), sender.clone(), left, outcome));
            }
        }
        // A worker that panicked leaves its request uncounted, so it is among the missing.
        let all = async { while workers.join_next().await.is_some() {} };
        let finished = timeout(self.plan.limit, all).await;
        workers.shutdown().await;
        let mut outcome = outcome.take();
        outcome.seconds = started.elapsed().as_secs_f64();
        let missing = requests - outcome.good - outcome.bad;
        if missing > 0 {
            outcome.bad += missing;
            let text = if finished.is_err() {
                "no answer within the limit"
            } else {
                "a worker failed"
            };
            outcome.first_bad.get_or_insert_with(|| text.to_owned());
        }
        outcome
    }
}

async fn connect(plan: &Plan) -> Result<SendRequest<Bytes>, Box<dyn std::error::Error>> {
    let socket = TcpStream::connect(plan.target).await?;
    socket.set_nodelay(true)?;
    match &plan.tls {
        None => speak(socket).await,
        Some(trust) => speak(trust.connect(socket).await?).await,
    }
}

async fn speak<S>(socket: S) -> Result<SendRequest<Bytes>, Box<dyn std::error::Error>>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = tuning::client().handshake(socket).await?;
    spawn_local(async move {
        // Its requests report what a broken connection means for them.
        let _ = connection.await;
    });
    Ok(sender)
}

/// One stream's place: takes the next request as long as there is one.
async fn worker(
    plan: Rc<Plan>,
    mut sender: SendRequest<Bytes>,
    left: Rc<Cell<u64>>,
    outcome: Rc<RefCell<Outcome>>,
) {
    while left.get() > 0 {
        left.set(left.get() - 1);
        let started = Instant::now();
        let result = exchange(&plan, &mut sender).await;
        let micros = started.elapsed().as_nanos() as f64 / 1e3;
        let mut outcome = outcome.borrow_mut();
        match result {
            Ok(()) => {
                outcome.good += 1;
                outcome.latencies_us.push(micros);
            }
            Err(text) => {
                outcome.bad += 1;
                outcome.first_bad.get_or_insert(text);
            }
        }
    }
}

/// One request and its checked answer.
async fn exchange(plan: &Plan, sender: &mut SendRequest<Bytes>) -> Result<(), String> {
    poll_fn(|cx| sender.poll_ready(cx))
        .await
        .map_err(|error| format!("not ready: {error}"))?;
    let (response, stream) = sender
        .send_request(head(plan)?, false)
        .map_err(|error| format!("not sent: {error}"))?;
    let mut sending = pin!(send_body(stream, plan.body.clone()));
    let mut answer = pin!(read_answer(response));
    let mut sent = false;
    // Both at once: a backend may answer, and end the stream, before it has read the body.
    let body = poll_fn(|cx| {
        if !sent {
            sent = sending.as_mut().poll(cx).is_ready();
        }
        answer.as_mut().poll(cx)
    })
    .await?;
    plan.expected.check(&body)
}

fn head(plan: &Plan) -> Result<Request<()>, String> {
    let mut request = Request::post(format!("http://{}{MODEL_INFER}", plan.target))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "grpc-bench/1");
    if let Some(user) = plan.users.next() {
        request = request.header(USER_HEADER, user);
    }
    if plan.early {
        request = request.header(EARLY_HEADER, "1");
    }
    request.body(()).map_err(|error| error.to_string())
}

/// Sends the body as the windows allow; what stops it shows in the answer.
async fn send_body(mut stream: SendStream<Bytes>, mut body: Bytes) {
    if body.len() <= 1024 {
        let _ = stream.send_data(body, true);
        return;
    }
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(Ok(capacity)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let piece = body.split_to(capacity.min(body.len()));
        if stream.send_data(piece, body.is_empty()).is_err() {
            return;
        }
    }
}

async fn read_answer(response: ResponseFuture) -> Result<Bytes, String> {
    let (parts, mut stream) = response
        .await
        .map_err(|error| format!("no headers: {error}"))?
        .into_parts();
    if parts.status != http::StatusCode::OK {
        return Err(format!("HTTP status {}", parts.status));
    }
    let mut body = BytesMut::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.map_err(|error| format!("body: {error}"))?;
        let _ = stream.flow_control().release_capacity(piece.len());
        body.extend_from_slice(&piece);
    }
    let trailers = stream
        .trailers()
        .await
        .map_err(|error| format!("trailers: {error}"))?;
    check_status(trailers.as_ref().unwrap_or(&parts.headers))?;
    Ok(body.freeze())
}

fn check_status(headers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        Some(code) => Err(format!(
            "grpc-status {code}: {}",
            text("grpc-message").unwrap_or_default()
        )),
        None => Err("no grpc-status".to_owned()),
    }
}
