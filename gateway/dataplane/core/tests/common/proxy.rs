//! What stands between a gateway and a backend and makes trouble, frame by frame.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

#[derive(Default)]
struct State {
    delay_ms: AtomicU64,
    /// Whether the next answer's DATA breaks the connection.
    cut: AtomicBool,
    cuts: AtomicUsize,
    ends_again: AtomicBool,
    again: AtomicUsize,
    goaway: Notify,
}

/// A proxy on a port of its own.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    pub async fn before(backend: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&backend).await else {
                    continue;
                };
                tokio::spawn(join(gateway, server, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Hold everything that the backend says back for so long.
    pub fn delay(&self, time: Duration) {
        self.state.delay_ms.store(time.as_millis() as u64, SeqCst);
    }

    /// Break the connection at the next answer, behind its head and before its message.
    pub fn cut(&self) {
        self.state.cut.store(true, SeqCst);
    }

    pub fn cuts(&self) -> usize {
        self.state.cuts.load(SeqCst)
    }

    /// End and reset streams without an answer again and again, as gRPC C++ does with a call whose deadline
    /// passed.
    pub fn end_again(&self) {
        self.state.ends_again.store(true, SeqCst);
    }

    /// Streams that were ended so.
    pub fn ended_again(&self) -> usize {
        self.state.again.load(SeqCst)
    }

    /// Say GOAWAY on every connection at once and in one step: what is on its way then is not let through,
    /// what was let through before is finished.
    pub fn goaway(&self) {
        self.state.goaway.notify_waiters();
    }
}

/// What of the gateway's frames was let through.
#[derive(Default)]
struct Passed {
    /// The last stream.
    last: AtomicU32,
    /// Whether none may follow.
    closed: AtomicBool,
    /// One did.
    held: Notify,
}

struct Frame {
    bytes: Vec<u8>,
}

impl Frame {
    fn kind(&self) -> u8 {
        self.bytes[3]
    }

    fn ends_stream(&self) -> bool {
        self.bytes[4] & END_STREAM != 0
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes(self.bytes[5..9].try_into().unwrap())
    }
}

async fn read_frame(from: &mut OwnedReadHalf) -> Option<Frame> {
    let mut bytes = vec![0; 9];
    from.read_exact(&mut bytes).await.ok()?;
    let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
    bytes.resize(9 + len, 0);
    from.read_exact(&mut bytes[9..]).await.ok()?;
    Some(Frame { bytes })
}

async fn join(gateway: TcpStream, server: TcpStream, state: Arc<State>) {
    gateway.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_gateway, to_gateway) = gateway.into_split();
    let (from_server, to_server) = server.into_split();
    let (to_gateway, passed) = (Mutex::new(to_gateway), Passed::default());
    tokio::select! {
        _ = requests(from_gateway, to_server, &passed) => {}
        _ = answers(from_server, &to_gateway, &state) => {}
        _ = goaways(&to_gateway, &passed, &state) => {}
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passed: &Passed) -> Option<()> {
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await.ok()?;
    to.write_all(&preface).await.ok()?;
    loop {
        let frame = read_frame(&mut from).await?;
        let stream = frame.stream();
        if stream > passed.last.load(SeqCst) {
            if passed.closed.load(SeqCst) {
                passed.held.notify_one();
                continue;
            }
            if frame.kind() == HEADERS {
                passed.last.store(stream, SeqCst);
            }
        }
        to.write_all(&frame.bytes).await.ok()?;
    }
}

async fn answers(mut from: OwnedReadHalf, to: &Mutex<OwnedWriteHalf>, state: &State) -> Option<()> {
    let mut begun = HashSet::new();
    loop {
        let frame = read_frame(&mut from).await?;
        if frame.kind() == DATA && state.cut.swap(false, SeqCst) {
            state.cuts.fetch_add(1, SeqCst);
            return None;
        }
        let delay = Duration::from_millis(state.delay_ms.load(SeqCst));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut bytes = frame.bytes.clone();
        let is_first = frame.kind() == HEADERS && begun.insert(frame.stream());
        if is_first && frame.ends_stream() && state.ends_again.load(SeqCst) {
            bytes.extend(end_again(frame.stream()));
            state.again.fetch_add(1, SeqCst);
        }
        to.lock().await.write_all(&bytes).await.ok()?;
    }
}

async fn goaways(to: &Mutex<OwnedWriteHalf>, passed: &Passed, state: &State) -> Option<()> {
    loop {
        state.goaway.notified().await;
        passed.closed.store(true, SeqCst);
        // So that there is a stream that the backend never saw, where there is any load.
        let _ = timeout(Duration::from_millis(100), passed.held.notified()).await;
        let goaway = goaway(passed.last.load(SeqCst));
        to.lock().await.write_all(&goaway).await.ok()?;
    }
}

/// What Triton sends behind the trailers of such a call.
fn end_again(stream: u32) -> Vec<u8> {
    let trailers = b"\x08\x03200\0\x0bgrpc-status\x014\0\x0cgrpc-message\x08too late";
    let frame = |kind, flags, payload: &[u8]| {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    };
    let reset = frame(RST_STREAM, 0, &[0; 4]);
    let end_headers = 4;
    let end = frame(HEADERS, END_STREAM | end_headers, trailers);
    [&reset[..], &end, &reset, &end, &reset, &end, &reset].concat()
}

fn goaway(last: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&last.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}
