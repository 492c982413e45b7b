//! A Triton's HTTP endpoint that does what it was started for, and a client that says what it likes.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// A request or an answer.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub first: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Lengths of the chunks that the body came in.
    pub chunks: Vec<usize>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }

    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Read one; `None` where the connection ends before it does.
    pub async fn read(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Self> {
        let mut told = Self {
            first: line(stream).await?,
            ..Self::default()
        };
        loop {
            let header = line(stream).await?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            let pair = (name.to_lowercase(), value.trim().to_owned());
            told.headers.push(pair);
        }
        if told.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&line(stream).await?, 16).ok()?;
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).await.ok()?;
                if size == 0 {
                    break;
                }
                told.chunks.push(size);
                told.body.extend_from_slice(&chunk[..size]);
            }
        } else if let Some(length) = told.header("content-length") {
            told.body = vec![0; length.parse().ok()?];
            stream.read_exact(&mut told.body).await.ok()?;
        }
        Some(told)
    }
}

async fn line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.ends_with('\n').then(|| line.trim_end().to_owned())
}

/// What an endpoint does with each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// A good answer in JSON.
    Answer,
    /// One with binary tensors behind.
    Binary,
    /// One that has its names at the end of much else.
    NamesLast,
    /// The same with binary tensors.
    BinaryNamesLast,
    /// An error of this status, whose text has Triton's name.
    Refuse(u16),
    /// A 404 for the model.
    Forget,
    /// Nothing, and the connection ends.
    HangUp,
    /// A good answer, and the connection ends without a word.
    AnswerAndHangUp,
    /// Half an answer, and the connection ends.
    Half,
    /// Nothing at all.
    Nothing,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Message>>,
    open: AtomicUsize,
    connections: AtomicUsize,
}

/// An HTTP endpoint on a port of its own; ends with the test.
pub struct Endpoint {
    pub address: String,
    state: Arc<State>,
}

impl Endpoint {
    pub async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    state.connections.fetch_add(1, SeqCst);
                    state.open.fetch_add(1, SeqCst);
                    serve(tcp, does, &state).await;
                    state.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { address, state }
    }

    pub fn seen(&self) -> Vec<Message> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// Connections that there ever were.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }
}

async fn serve(tcp: TcpStream, does: Does, state: &State) {
    let mut stream = BufReader::new(tcp);
    while let Some(request) = Message::read(&mut stream).await {
        let name = request.first.split('/').nth(3).unwrap_or("").to_owned();
        state.seen.lock().unwrap().push(request);
        if does == Does::Nothing {
            let _ = stream.read_u8().await;
            return;
        }
        let answer = answer(does, &name);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        if matches!(does, Does::HangUp | Does::AnswerAndHangUp | Does::Half) {
            return;
        }
    }
}

fn answer(does: Does, name: &str) -> Vec<u8> {
    let names = format!(r#""model_name":"{name}","model_version":"1""#);
    let much = "0,".repeat(100_000);
    let (json, tensors) = match does {
        Does::Binary => (format!(r#"{{{names},"outputs":[]}}"#), "tensors!"),
        Does::NamesLast => (format!(r#"{{"outputs":[{much}0],{names}}}"#), ""),
        Does::BinaryNamesLast => (format!(r#"{{"outputs":[{much}0],{names}}}"#), "tensors!"),
        Does::Refuse(_) => (format!(r#"{{"error":"model '{name}' said \"no\""}}"#), ""),
        Does::Forget => (
            format!(r#"{{"error":"Request for unknown model: '{name}' is not found"}}"#),
            "",
        ),
        Does::HangUp => return Vec::new(),
        _ => (format!(r#"{{{names},"outputs":[]}}"#), ""),
    };
    let status = match does {
        Does::Refuse(status) => status,
        Does::Forget => 404,
        _ => 200,
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
    let length_of_json = if tensors.is_empty() {
        String::new()
    } else {
        format!("Inference-Header-Content-Length: {}\r\n", json.len())
    };
    let length = json.len() + tensors.len() + if does == Does::Half { 100 } else { 0 };
    format!("{head}{length_of_json}Content-Length: {length}\r\n\r\n{json}{tensors}").into_bytes()
}

/// A client connection on the HTTP port.
pub struct Caller(pub BufReader<TcpStream>);

impl Caller {
    pub async fn connect(port: u16) -> Self {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self(BufReader::new(tcp))
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The other side may have said enough already.
        let _ = self.0.write_all(bytes).await;
    }

    /// The next answer; `None` where the connection ends.
    pub async fn answer(&mut self) -> Option<Message> {
        timeout(PATIENCE, Message::read(&mut self.0))
            .await
            .expect("an answer in time")
    }

    pub async fn call(&mut self, bytes: &[u8]) -> Message {
        self.send(bytes).await;
        self.answer().await.expect("an answer")
    }

    /// Wait until the other side closes.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut rest));
        let _ = read.await.expect("an end in time");
    }
}

/// The bytes of a POST.
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The bytes of a GET.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}
