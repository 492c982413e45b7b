//! The answer to what is no gRPC call at all: HTTP 415 and a line for people.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use tokio::time::timeout;

use crate::client::poll_room;
use crate::joined::Joined;

const TEXT: &str = "This port speaks gRPC: HTTP/2 POST with content-type application/grpc. \
                    The REST protocol and the metrics have ports of their own.\n";
/// So much of the request's body is read and thrown away first: many clients lose an answer that comes
/// before they have sent all.
const HEARD_OUT: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the client may leave the text untaken.
const UNTAKEN: Duration = Duration::from_secs(30);

/// Send the answer, in a task of its own where the client has more to say or does not take it at once.
pub(crate) fn unsupported_media_type(
    method: &Method,
    body: RecvStream,
    respond: SendResponse<Joined>,
) {
    let bare = method == Method::HEAD;
    if body.is_end_stream() {
        if let Some((send, text)) = begin(respond, bare) {
            tokio::task::spawn_local(send_within(send, text));
        }
    } else {
        tokio::task::spawn_local(hear_out_and_answer(body, respond, bare));
    }
}

async fn hear_out_and_answer(mut body: RecvStream, respond: SendResponse<Joined>, bare: bool) {
    if let Ok(Err(_)) = timeout(PATIENCE, hear_out(&mut body)).await {
        return;
    }
    if let Some((send, text)) = begin(respond, bare) {
        send_within(send, text).await;
    }
}

/// Read the body to its end, or as far as anybody may expect.
async fn hear_out(body: &mut RecvStream) -> Result<(), h2::Error> {
    let mut heard = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        heard += data.len();
        body.flow_control().release_capacity(data.len())?;
        if heard > HEARD_OUT {
            return Ok(());
        }
    }
    body.trailers().await.map(|_| ())
}

/// Send the head. What is still to be sent is given back, unless that is nothing, or the client is gone.
fn begin(mut respond: SendResponse<Joined>, bare: bool) -> Option<(SendStream<Joined>, Joined)> {
    let mut send = respond.send_response(head(), bare).ok()?;
    let text = Joined::from(Bytes::from_static(TEXT.as_bytes()));
    send.reserve_capacity(text.remaining());
    if bare {
        None
    } else if send.capacity() < text.remaining() {
        Some((send, text))
    } else {
        let _ = send.send_data(text, true);
        None
    }
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    *response.version_mut() = Version::HTTP_2;
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(TEXT.len()));
    response
}

/// Send the text as the windows open, or reset the stream of a client that takes nothing.
async fn send_within(mut send: SendStream<Joined>, mut text: Joined) {
    let mut untaken = pin!(tokio::time::sleep(UNTAKEN));
    while text.has_remaining() {
        let room = poll_fn(|cx| {
            if untaken.as_mut().poll(cx).is_ready() || send.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            poll_room(&mut send, text.remaining(), cx)
        });
        let Some(room) = room.await else {
            return send.send_reset(Reason::CANCEL);
        };
        let piece = text.split_to(room);
        if send.send_data(piece, !text.has_remaining()).is_err() {
            return;
        }
    }
}
