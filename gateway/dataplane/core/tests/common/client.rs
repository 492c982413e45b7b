//! A client that shows everything of an answer.

use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use stagegate_wire::names::scan_message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{framed, request, INFER};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Client {
    send: SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

/// All of an answer.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    pub trailers_only: bool,
}

impl Answer {
    pub fn code(&self) -> i32 {
        self.status_value("grpc-status").parse().unwrap()
    }

    pub fn text(&self) -> String {
        stagegate_wire::text::decode_message(self.status_value("grpc-message").as_bytes())
            .into_owned()
    }

    fn status_value(&self, name: &str) -> &str {
        let from = if self.trailers_only {
            &self.headers
        } else {
            &self.trailers
        };
        from.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The messages, without prefixes.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        let (mut rest, mut out) = (&self.body[..], Vec::new());
        while !rest.is_empty() {
            let len = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
            assert_eq!(0, rest[0], "a compressed message");
            out.push(rest[5..5 + len].to_vec());
            rest = &rest[5 + len..];
        }
        out
    }

    /// Model name and version of the one answer.
    pub fn names(&self) -> (String, String) {
        let [message] = &self.messages()[..] else {
            panic!("not one message: {self:?}")
        };
        let names = scan_message(message).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(names.model), text(names.version))
    }
}

/// A call whose request is still open.
pub struct Call {
    pub send: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Client {
    pub async fn connect(port: u16) -> Self {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let (send, connection) = builder.handshake(tcp).await.unwrap();
        Self {
            send,
            connection: tokio::spawn(connection),
        }
    }

    /// Begin a call.
    pub async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = format!("http://gateway{path}").parse().unwrap();
        let usual = [("content-type", "application/grpc"), ("te", "trailers")];
        for (name, value) in usual.iter().chain(headers) {
            if *name == "content-type" {
                request.headers_mut().remove("content-type");
            }
            if *name == ":method" {
                *request.method_mut() = value.parse().unwrap();
                continue;
            }
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let mut ready = self.send.clone().ready().await.unwrap();
        let (response, send) = ready.send_request(request, false).unwrap();
        Call { send, response }
    }

    /// One call with these bytes as DATA frames.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], frames: &[&[u8]]) -> Answer {
        let mut call = self.begin(path, headers).await;
        for (at, frame) in frames.iter().enumerate() {
            if call.send_all(frame, at + 1 == frames.len()).await.is_none() {
                break;
            }
        }
        call.answer().await.unwrap()
    }

    /// One small inference.
    pub async fn infer(&self, model: &str, headers: &[(&str, &str)]) -> Answer {
        self.call(INFER, headers, &[&framed(&request(model, "", 100))])
            .await
    }
}

impl Call {
    /// Send bytes as the peer takes them; `None` where it takes no more.
    pub async fn send_all(&mut self, bytes: &[u8], end: bool) -> Option<()> {
        let mut rest = Bytes::copy_from_slice(bytes);
        loop {
            self.send.reserve_capacity(rest.len());
            let room = match self.send.capacity() {
                _ if rest.is_empty() => 0,
                0 => {
                    let room = std::future::poll_fn(|cx| self.send.poll_capacity(cx));
                    timeout(PATIENCE, room).await.expect("room in time")?.ok()?
                }
                room => room,
            };
            let part = rest.split_to(room.min(rest.len()));
            self.send.send_data(part, end && rest.is_empty()).ok()?;
            if rest.is_empty() {
                return Some(());
            }
        }
    }

    pub async fn head(&mut self) -> Result<(StatusCode, HeaderMap, RecvStream), h2::Error> {
        let response = timeout(PATIENCE, &mut self.response)
            .await
            .expect("an answer in time")?;
        let (head, body) = response.into_parts();
        Ok((head.status, head.headers, body))
    }

    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// The rest of the call.
    pub async fn answer(mut self) -> Result<Answer, h2::Error> {
        let (http, headers, mut body) = self.head().await?;
        let trailers_only = body.is_end_stream();
        let mut bytes = Vec::new();
        while let Some(data) = timeout(PATIENCE, body.data()).await.expect("data in time") {
            let data = data?;
            bytes.extend_from_slice(&data);
            let _ = body.flow_control().release_capacity(data.len());
        }
        let trailers = timeout(PATIENCE, body.trailers())
            .await
            .expect("trailers in time")?;
        let trailers = trailers.unwrap_or_default();
        Ok(Answer {
            http,
            headers,
            body: bytes,
            trailers,
            trailers_only,
        })
    }
}

/// The next message of an open answer.
pub async fn next_message(body: &mut RecvStream, held: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if held.len() >= 5 {
            let len = u32::from_be_bytes(held[1..5].try_into().unwrap()) as usize;
            if held.len() >= 5 + len {
                let rest = held.split_off(5 + len);
                let message = held.split_off(5);
                *held = rest;
                return Some(message);
            }
        }
        let data = timeout(PATIENCE, body.data())
            .await
            .expect("data in time")?
            .ok()?;
        let _ = body.flow_control().release_capacity(data.len());
        held.extend_from_slice(&data);
    }
}
