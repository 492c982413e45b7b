//! A backend's answer on its way to a client: with logical names, in the pieces that it comes in.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use stagegate_table::{Fault, Series};

use crate::deadline::Deadline;
use crate::download::mark;
use crate::ejection::Outcome;
use crate::rest::body::{Body, Broken};
use crate::rest::connection::OpenRequest;
use crate::rest::exchange::{Answer, AnswerBody, Via};
use crate::rest::headers::{self, JSON_LENGTH};
use crate::rest::json::{Events, Names, Rewriter};
use crate::rest::refusal::{code_of, Refusal};
use crate::rest::wait::before;
use crate::routed::{micros, Count, Routed};
use crate::status::{Code, Status};
use crate::worker::Worker;

/// Bytes that are held back so that the length of an answer can be told before it. Triton writes the
/// names first, so that this much is hardly ever needed.
const HELD: usize = 64 << 10;
/// The same where it must be told, because binary tensors follow the JSON.
const HELD_BEFORE_TENSORS: usize = 8 << 20;

/// What becomes of the bytes of an answer.
enum Rename {
    /// Nothing: all names are through.
    Settled,
    Object(Box<Rewriter>),
    Events(Box<Events>),
}

/// A request that is being answered by a backend.
pub(crate) struct Running {
    pub(crate) worker: Rc<Worker>,
    pub(crate) routed: Routed,
    pub(crate) deadline: Deadline,
    pub(crate) count: Count,
    /// The series of its arm, where the times between answers are kept.
    pub(crate) series: Option<Arc<Series>>,
    /// The gRPC code with which the arm failed that was chosen first, where another one answers.
    pub(crate) fell_back: Option<u8>,
    pub(crate) started: Instant,
    pub(crate) open: OpenRequest,
}

impl Running {
    /// Count how it ended; the arm that was chosen first answers for its failure.
    pub(crate) fn end(&mut self, code: u8, now: Instant) {
        match self.fell_back {
            Some(first) => self.count.fall_back(first, now),
            None => self.count.end(code, now),
        }
    }
}

/// The body of an answer that comes from a backend.
pub(crate) struct Download {
    /// Pieces that are ready for the client.
    first: VecDeque<Bytes>,
    incoming: Incoming,
    rename: Rename,
    /// What is still to come for the client, where it is known.
    length: Option<u64>,
    code: u8,
    running: Running,
    via: Option<Via>,
    /// When the last event of a stream was handed on.
    told: Option<Instant>,
    ended: bool,
}

/// The head of an answer that is rewritten, and what of its body came meanwhile.
struct Opening {
    first: VecDeque<Bytes>,
    rename: Rename,
    length: Option<u64>,
}

/// Turn a backend's answer into the one for the client. Gives the request back where there is none.
pub(crate) async fn begin(
    mut running: Running,
    answer: Answer,
) -> Result<Response<Body>, (Refusal, Running)> {
    let Answer {
        mut head,
        body,
        via,
    } = answer;
    let code = code_of(head.status);
    let body = match body {
        AnswerBody::There(body) => {
            head.headers.remove(JSON_LENGTH);
            headers::for_client(&mut head.headers);
            mark(&mut head.headers, &running.worker, Some(&running.routed));
            Body::whole(refused(&mut running, &body, code))
        }
        AnswerBody::Coming(mut incoming) => {
            let opened = open(&mut running, &mut head.headers, &mut incoming, &via.name).await;
            let opening = match opened {
                Ok(opening) => opening,
                Err(refusal) => {
                    let text = &refusal.status.message;
                    let outcome = Outcome::Fault(Fault::Broken, text);
                    if refusal.status.code != Code::DeadlineExceeded as u8 {
                        running
                            .worker
                            .report(&running.routed, via.backend(), outcome);
                    }
                    return Err((refusal, running));
                }
            };
            headers::for_client(&mut head.headers);
            mark(&mut head.headers, &running.worker, Some(&running.routed));
            Body::Coming(Box::new(Download {
                first: opening.first,
                incoming,
                rename: opening.rename,
                length: opening.length,
                code,
                running,
                via: Some(via),
                told: None,
                ended: false,
            }))
        }
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers;
    Ok(answer)
}

/// The body of an error, under the names that the client knows.
fn refused(running: &mut Running, body: &[u8], code: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    Rewriter::new(names(&running.routed)).feed(body, &mut out);
    running.end(code, Instant::now());
    out
}

async fn open(
    running: &mut Running,
    headers: &mut HeaderMap,
    incoming: &mut Incoming,
    backend: &str,
) -> Result<Opening, Refusal> {
    let encoding = headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        let text = format!("backend '{backend}' compressed an answer, which nobody asked it for");
        return Err(Status::internal(text).into());
    }
    let names = names(&running.routed);
    if is_events(headers) {
        return Ok(Opening {
            first: VecDeque::new(),
            rename: Rename::Events(Box::new(Events::new(names))),
            length: None,
        });
    }
    let total = incoming.size_hint().exact();
    let json = headers::json_length(headers);
    let mut rewriter = Rewriter::new(names);
    if total.is_none() && json.is_none() {
        return Ok(Opening {
            first: VecDeque::new(),
            rename: Rename::Object(Box::new(rewriter)),
            length: None,
        });
    }
    let most = if json.is_some() {
        HELD_BEFORE_TENSORS
    } else {
        HELD
    };
    let json_length = json.or(total).unwrap_or(0);
    let mut taken = 0;
    let mut out = Vec::new();
    let mut rest = Bytes::new();
    while taken < json_length && !rewriter.is_settled() && out.len() < most {
        let frame = before(&mut running.deadline, incoming.frame()).await?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| cut_short(backend, &error))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        let part = usize::try_from(json_length - taken)
            .unwrap_or(usize::MAX)
            .min(data.len());
        rest = data.split_off(part);
        rewriter.feed(&data, &mut out);
        taken += part as u64;
    }
    let grown = |length: u64| length - taken + out.len() as u64;
    let is_known = rewriter.is_settled() || taken == json_length;
    if json.is_some() {
        if !is_known {
            let text = format!("backend '{backend}' gave an answer that cannot be read");
            return Err(Status::internal(text).into());
        }
        headers.insert(JSON_LENGTH, HeaderValue::from(grown(json_length)));
    }
    let length = total.filter(|_| is_known).map(grown);
    let rename = if is_known {
        Rename::Settled
    } else {
        Rename::Object(Box::new(rewriter))
    };
    let first = [Bytes::from(out), rest];
    Ok(Opening {
        first: first
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect(),
        rename,
        length,
    })
}

fn names(routed: &Routed) -> Names {
    let version = &routed.version;
    Names::new(&routed.model.name, &version.id, &version.backend_model)
}

fn is_events(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

fn cut_short(backend: &str, error: &hyper::Error) -> Status {
    Status::unavailable(format!(
        "backend '{backend}' ended its answer early: {error}"
    ))
}

impl Rename {
    fn apply(&mut self, data: Bytes) -> Bytes {
        match self {
            Self::Settled => data,
            Self::Object(rewriter) if rewriter.is_settled() => data,
            Self::Object(rewriter) => {
                let mut out = Vec::with_capacity(data.len());
                rewriter.feed(&data, &mut out);
                out.into()
            }
            Self::Events(events) => {
                let mut out = Vec::with_capacity(data.len());
                events.feed(&data, &mut out);
                out.into()
            }
        }
    }

    /// Whether an answer that began well told of an error.
    fn error_seen(&self) -> bool {
        match self {
            Self::Settled => false,
            Self::Object(rewriter) => rewriter.error_seen(),
            Self::Events(events) => events.error_seen(),
        }
    }
}

impl Download {
    /// What is still to come, where it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(piece) = self.first.pop_front() {
                return Poll::Ready(Some(Ok(self.hand_on(piece))));
            }
            if self.length == Some(0) {
                self.end();
                continue;
            }
            if self.running.deadline.poll(cx).is_ready() {
                return Poll::Ready(Some(Err(self.break_off(Code::DeadlineExceeded))));
            }
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        let before = self.events();
                        let piece = self.rename.apply(data);
                        self.count_events(self.events() - before);
                        self.first.extend((!piece.is_empty()).then_some(piece));
                    }
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(self.break_off(Code::Unavailable)))),
                None if self.length.is_some() => {
                    return Poll::Ready(Some(Err(self.break_off(Code::Unavailable))))
                }
                None => self.end(),
            }
        }
    }

    fn hand_on(&mut self, piece: Bytes) -> Bytes {
        if let Some(length) = &mut self.length {
            *length = length.saturating_sub(piece.len() as u64);
            // hyper asks for nothing behind the last byte.
            if *length == 0 && self.first.is_empty() {
                self.end();
            }
        }
        piece
    }

    fn end(&mut self) {
        let now = Instant::now();
        self.ended = true;
        if self.code == Code::Ok as u8 && self.rename.error_seen() {
            self.code = Code::Internal as u8;
        }
        self.running.end(self.code, now);
        if let Some(mut via) = self.via.take() {
            via.count(&self.running.worker, &self.running.routed, Outcome::Good);
            via.give_back();
        }
        self.running.open.end(now);
    }

    /// The client is told by a closed connection, because its answer has begun.
    fn break_off(&mut self, code: Code) -> Broken {
        self.ended = true;
        self.running.end(code as u8, Instant::now());
        if let (Some(via), true) = (self.via.take(), code == Code::Unavailable) {
            let outcome = Outcome::Fault(Fault::Broken, "its answer ended early");
            via.count(&self.running.worker, &self.running.routed, outcome);
        }
        Broken
    }

    fn events(&self) -> u64 {
        match &self.rename {
            Rename::Events(events) => events.ended,
            _ => 0,
        }
    }

    fn count_events(&mut self, events: u64) {
        let Some(series) = self.running.series.as_ref().filter(|_| events > 0) else {
            return;
        };
        let now = Instant::now();
        for _ in 0..events {
            let streams = series.streams();
            match self.told.replace(now) {
                None => streams.first.record(micros(self.running.started, now)),
                Some(before) => streams.inter.record(micros(before, now)),
            }
            self.running.worker.totals.message_sent();
        }
    }
}
