//! Small unary calls to backends beside the way of a client's own: asked all at once, each answer whole.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use http::uri::PathAndQuery;
use http::{HeaderMap, Response};

use crate::client::{Client, Failure};
use crate::download::accept_head;
use crate::framer::Caps;
use crate::headers::{self, GRPC_ENCODING};
use crate::joined::Joined;
use crate::reader::{ReadError, Reader};
use crate::status::{parse_code, Code, Status, GRPC_STATUS};
use crate::upstream::Unreachable;
use crate::worker::Worker;

/// What one backend answered to a question.
pub(crate) type Answered = Result<Bytes, Status>;

/// Send each backend its message, by the path and with the metadata of the client's call, and wait for
/// all of them. The answers come in the order of the questions.
pub(crate) async fn ask_all(
    worker: &Worker,
    client: &mut Client,
    questions: impl IntoIterator<Item = (u32, Bytes)>,
) -> Result<Vec<Answered>, Failure> {
    headers::for_backend(&mut client.headers);
    client.headers.remove(GRPC_ENCODING);
    worker
        .timeouts
        .set(&mut client.headers, client.deadline.at(), Instant::now());
    let (path, headers) = (client.path.clone(), client.headers.clone());
    let asking = questions.into_iter().map(|(backend, message)| {
        let call = ask(worker, backend, path.clone(), headers.clone(), message);
        Slot::Open(Box::pin(call))
    });
    let mut slots: Vec<Slot<'_>> = asking.collect();
    client
        .wait(|_, cx| {
            let mut pending = false;
            for slot in &mut slots {
                if let Slot::Open(call) = slot {
                    match call.as_mut().poll(cx) {
                        Poll::Ready(answer) => *slot = Slot::Done(answer),
                        Poll::Pending => pending = true,
                    }
                }
            }
            if pending {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await?;
    let answers = slots.into_iter().filter_map(|slot| match slot {
        Slot::Done(answer) => Some(answer),
        Slot::Open(_) => None,
    });
    Ok(answers.collect())
}

enum Slot<'a> {
    Open(Pin<Box<dyn Future<Output = Answered> + 'a>>),
    Done(Answered),
}

/// Send one backend one message, and wait for its answer.
pub(crate) async fn ask(
    worker: &Worker,
    backend: u32,
    path: PathAndQuery,
    headers: HeaderMap,
    message: Bytes,
) -> Answered {
    let upstream = worker.with_table(|table| worker.pool.get(table.backend(backend)?));
    let gone = || Status::unavailable("a backend left the routing table while it was asked");
    let upstream = upstream.ok_or_else(gone)?;
    let lease = upstream.open().await.map_err(|Unreachable(reason)| {
        Status::unavailable(format!(
            "backend '{}' does not answer: {reason}",
            upstream.name()
        ))
    })?;
    let failed = |error: h2::Error| Status::of_upstream_error(&error, upstream.name());
    let (response, mut send) = lease
        .send(upstream.request(path, headers), false)
        .map_err(failed)?;
    // Its window may be smaller; h2 keeps what does not fit. What breaks here is told by the answer.
    let _ = send.send_data(Joined::message(message, Bytes::new()), true);
    let response = response.await.map_err(failed)?;
    upstream.heard();
    match whole(worker, response, upstream.name()).await? {
        Whole::Answer(_, message) => Ok(message),
        Whole::Refusal(code, last) => Err(Status::told(code, &last)),
    }
}

/// An answer that was read to its end.
pub(crate) enum Whole {
    /// Its head and its one message.
    Answer(Response<()>, Bytes),
    /// The code that it ended with, and the headers that say more.
    Refusal(u8, HeaderMap),
}

/// Read an answer of one message to its end.
pub(crate) async fn whole(
    worker: &Worker,
    response: Response<RecvStream>,
    backend: &str,
) -> Result<Whole, Status> {
    let broken = |error| Status::of_upstream_error(&error, backend);
    let (head, body) = accept_head(response, backend)?;
    let mut reader = Reader::new(body, Caps::of(&worker.limits()));
    let mut message = None;
    loop {
        match poll_fn(|cx| reader.poll_message(head.headers(), cx)).await {
            Ok(Some(next)) => message = Some(next),
            Ok(None) => break,
            Err(ReadError::Status(status)) => return Err(status),
            Err(ReadError::Broken(error)) => return Err(broken(error)),
        }
    }
    let trailers = poll_fn(|cx| reader.body().poll_trailers(cx)).await;
    let last = trailers
        .map_err(broken)?
        .unwrap_or_else(|| head.headers().clone());
    match (last.get(GRPC_STATUS).map(parse_code), message) {
        (Some(code), Some(message)) if code == Code::Ok as u8 => Ok(Whole::Answer(head, message)),
        (Some(code), _) if code != Code::Ok as u8 => Ok(Whole::Refusal(code, last)),
        _ => Err(Status::internal(format!(
            "backend '{backend}' gave no answer and no error"
        ))),
    }
}
