//! A backend's answer on its way to the client: renamed, with the backend's own status.

use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use stagegate_wire::text::rewrite_message;
use tokio::time::Sleep;

use crate::client::{Answer, Client, Failure, SMALL};
use crate::framer::{Caps, Framer};
use crate::headers;
use crate::joined::Joined;
use crate::routed::Routed;
use crate::shadow::Capture;
use crate::status::{message_value, parse_code, Code, Status, GRPC, GRPC_MESSAGE, GRPC_STATUS};
use crate::worker::Worker;

/// What becomes of an answer on its way.
pub(crate) struct Rename<'a> {
    /// Appended to each message.
    pub(crate) tail: &'a Bytes,
    /// Triton's model name and the logical one, for texts.
    pub(crate) names: Option<(&'a str, &'a str)>,
}

/// Put the gateway's own metadata into the head of an answer.
pub(crate) fn mark(headers: &mut HeaderMap, worker: &Worker, routed: Option<&Routed>) {
    headers.reserve(3);
    if let Some(routed) = routed {
        headers.insert(headers::VERSION, routed.version.version_header.clone());
        headers.insert(headers::ARM, routed.arm.clone());
    }
    headers.insert(headers::REQUEST, worker.tokens.next());
}

/// The head of a backend's answer for the client, or the status that it amounts to.
pub(crate) fn accept_head(
    response: Response<RecvStream>,
    backend: &str,
) -> Result<(Response<()>, RecvStream), Status> {
    let (mut parts, body) = response.into_parts();
    let is_grpc = parts.status == StatusCode::OK
        && (headers::is_grpc(&parts.headers) || parts.headers.contains_key(GRPC_STATUS));
    if !is_grpc {
        return Err(Status::of_http(parts.status, backend));
    }
    headers::for_client(&mut parts.headers);
    Ok((Response::from_parts(parts, ()), body))
}

/// Send the head of a backend's answer on. Gives its gRPC code where the head was all.
pub(crate) fn begin(
    worker: &Worker,
    client: &mut Client,
    response: Response<RecvStream>,
    backend: &str,
    rename: &Rename<'_>,
    routed: Option<&Routed>,
) -> Result<Option<u8>, Failure> {
    let (mut head, body) = accept_head(response, backend)?;
    if body.is_end_stream() {
        let code = trailers_only(worker, client, head, rename.names, routed, backend)?;
        return Ok(Some(code));
    }
    let caps = Caps::of(&worker.limits());
    let framer = Framer::new(rename.tail.clone(), head.headers(), caps);
    mark(head.headers_mut(), worker, routed);
    if let Some(capture) = &mut client.capture {
        capture.answer_begins(head.headers());
    }
    client.head(head, false)?;
    client.rest = Some(Rest::new(body, framer, client.patience));
    Ok(None)
}

fn trailers_only(
    worker: &Worker,
    client: &mut Client,
    mut head: Response<()>,
    names: Option<(&str, &str)>,
    routed: Option<&Routed>,
    backend: &str,
) -> Result<u8, Failure> {
    let Some(status) = head.headers().get(GRPC_STATUS) else {
        return Err(Status::of_http(StatusCode::OK, backend).into());
    };
    let code = parse_code(status);
    if code == Code::Ok as u8 {
        return Err(no_message(backend).into());
    }
    rewrite_text(head.headers_mut(), names);
    head.headers_mut().entry(CONTENT_TYPE).or_insert(GRPC);
    mark(head.headers_mut(), worker, routed);
    client.head(head, true)?;
    Ok(code)
}

/// Forward the rest of an answer; gives its gRPC code.
pub(crate) async fn finish(
    client: &mut Client,
    backend: &str,
    names: Option<(&str, &str)>,
) -> Result<u8, Failure> {
    let trailers = client.wait(|client, cx| match &mut client.rest {
        Some(rest) => rest.poll(&mut client.answer, &mut client.capture, backend, cx),
        None => Poll::Ready(Err(Failure::Gone)),
    });
    let trailers = trailers.await??;
    let complete = client.rest.as_ref().is_some_and(|rest| rest.complete);
    end(client, trailers, complete, names, backend)
}

/// An OK without the message that it promises.
fn no_message(backend: &str) -> Status {
    Status::internal(format!(
        "backend '{backend}' ended the call with OK, but gave no answer"
    ))
}

/// An answer of which the head was sent on. Polled by hand, because this is the future that every
/// request carries.
pub(crate) struct Rest {
    body: RecvStream,
    framer: Framer,
    /// The DATA frame that is being forwarded, and its length.
    data: Bytes,
    taken: usize,
    /// What the client has no room for yet.
    piece: Option<Joined>,
    /// Whether anything, and whether a whole message, was forwarded.
    begun: bool,
    complete: bool,
    untaken: Option<Pin<Box<Sleep>>>,
    /// How long the client may leave a piece untaken.
    patience: Duration,
}

impl Rest {
    fn new(body: RecvStream, framer: Framer, patience: Duration) -> Self {
        Self {
            body,
            framer,
            data: Bytes::new(),
            taken: 0,
            piece: None,
            begun: false,
            complete: false,
            untaken: None,
            patience,
        }
    }

    /// What comes from the backend.
    pub(crate) fn into_body(self) -> RecvStream {
        self.body
    }

    /// Ready with the trailers when all messages are forwarded.
    fn poll(
        &mut self,
        answer: &mut Answer,
        capture: &mut Option<Box<Capture>>,
        backend: &str,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, Failure>> {
        loop {
            ready!(self.poll_piece(answer, cx))?;
            if let Some((piece, done)) = self.framer.next(&mut self.data)? {
                if self.complete {
                    let text = format!("backend '{backend}' gave more than one answer");
                    return Poll::Ready(Err(Status::internal(text).into()));
                }
                // Only one message is let through without asking for room, and only a small one.
                if done && !self.begun && piece.remaining() <= SMALL {
                    answer.data(piece)?;
                } else {
                    self.piece = Some(piece);
                }
                (self.begun, self.complete) = (true, done);
                continue;
            }
            self.release();
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if let Some(capture) = capture {
                        capture.answer_goes_on(&data);
                    }
                    (self.taken, self.data) = (data.len(), data);
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(Status::of_upstream_error(&error, backend).into()))
                }
                None => break,
            }
        }
        if !self.framer.is_between() {
            let text = format!("backend '{backend}' ended its answer inside a message");
            return Poll::Ready(Err(Status::internal(text).into()));
        }
        let trailers = ready!(self.body.poll_trailers(cx));
        Poll::Ready(trailers.map_err(|error| Status::of_upstream_error(&error, backend).into()))
    }

    fn poll_piece(
        &mut self,
        answer: &mut Answer,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        while let Some(piece) = &mut self.piece {
            let Poll::Ready(room) = answer.poll_room(piece.remaining(), cx) else {
                let sleep = || Box::pin(tokio::time::sleep(self.patience));
                let untaken = self.untaken.get_or_insert_with(sleep);
                return untaken.as_mut().poll(cx).map(|()| Err(Failure::Gone));
            };
            self.untaken = None;
            answer.data(piece.split_to(room?))?;
            if !piece.has_remaining() {
                self.piece = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Let the backend send as much as was forwarded. A small last frame needs no word: what is left
    /// open is given back with the stream.
    fn release(&mut self) {
        if self.taken > SMALL || (self.taken > 0 && !self.body.is_end_stream()) {
            let _ = self.body.flow_control().release_capacity(self.taken);
        }
        self.taken = 0;
    }
}

/// End an answer with the backend's trailers; gives the gRPC code. OK is only what has its message
/// `complete`.
fn end(
    client: &mut Client,
    trailers: Option<HeaderMap>,
    complete: bool,
    names: Option<(&str, &str)>,
    backend: &str,
) -> Result<u8, Failure> {
    let Some((mut trailers, code)) = trailers.and_then(|trailers| {
        let code = parse_code(trailers.get(GRPC_STATUS)?);
        Some((trailers, code))
    }) else {
        return Err(Status::of_http(StatusCode::OK, backend).into());
    };
    if code == Code::Ok as u8 && !complete {
        return Err(no_message(backend).into());
    }
    headers::for_client(&mut trailers);
    rewrite_text(&mut trailers, names);
    client.trailers(trailers)?;
    Ok(code)
}

/// Put the logical name into a backend's text, and cut it.
pub(crate) fn rewrite_text(headers: &mut HeaderMap, names: Option<(&str, &str)>) {
    let (triton, logical) = names.unwrap_or(("", ""));
    let Some(text) = headers.get(GRPC_MESSAGE) else {
        return;
    };
    if let Some(text) = rewrite_message(text.as_bytes(), triton, logical) {
        headers.insert(GRPC_MESSAGE, message_value(text));
    }
}
