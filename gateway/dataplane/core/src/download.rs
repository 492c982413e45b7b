//! A backend's answer on its way to the client: renamed, with the backend's own status.

use bytes::{Buf, Bytes};
use h2::RecvStream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use stagegate_wire::text::rewrite_message;

use crate::client::{Client, Failure, SMALL};
use crate::framer::{Caps, Framer};
use crate::headers;
use crate::routed::Routed;
use crate::status::{message_value, parse_code, Status, GRPC, GRPC_MESSAGE, GRPC_STATUS};
use crate::worker::Worker;

/// What becomes of an answer on its way.
pub(crate) struct Rename<'a> {
    /// Appended to each message.
    pub(crate) tail: Bytes,
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

/// Forward an answer to its end; gives its gRPC code.
pub(crate) async fn forward(
    worker: &Worker,
    client: &mut Client<'_>,
    response: Response<RecvStream>,
    backend: &str,
    rename: Rename<'_>,
    routed: Option<&Routed>,
) -> Result<u8, Failure> {
    let (mut head, mut body) = accept_head(response, backend)?;
    if body.is_end_stream() {
        return trailers_only(worker, client, head, rename.names, routed, backend);
    }
    let mut framer = Framer::new(
        rename.tail,
        head.headers(),
        Caps::of(&worker.shared.settings),
    );
    mark(head.headers_mut(), worker, routed);
    client.head(head, false)?;
    messages(client, &mut body, &mut framer, backend).await?;
    let trailers = client.wait(|_, cx| body.poll_trailers(cx)).await?;
    let trailers = trailers.map_err(|error| Status::of_upstream_error(&error, backend))?;
    end(client, trailers, rename.names, backend)
}

fn trailers_only(
    worker: &Worker,
    client: &mut Client<'_>,
    mut head: Response<()>,
    names: Option<(&str, &str)>,
    routed: Option<&Routed>,
    backend: &str,
) -> Result<u8, Failure> {
    let Some(status) = head.headers().get(GRPC_STATUS) else {
        return Err(Status::of_http(StatusCode::OK, backend).into());
    };
    let code = parse_code(status);
    rewrite_text(head.headers_mut(), names);
    head.headers_mut().entry(CONTENT_TYPE).or_insert(GRPC);
    mark(head.headers_mut(), worker, routed);
    client.head(head, true)?;
    Ok(code)
}

/// Forward all messages of an answer.
async fn messages(
    client: &mut Client<'_>,
    body: &mut RecvStream,
    framer: &mut Framer,
    backend: &str,
) -> Result<(), Failure> {
    let mut sent_one = false;
    loop {
        let data = client.wait(|_, cx| body.poll_data(cx)).await?;
        let mut data = match data {
            None => break,
            Some(Ok(data)) => data,
            Some(Err(error)) => return Err(Status::of_upstream_error(&error, backend).into()),
        };
        let taken = data.len();
        while let Some((piece, done)) = framer.next(&mut data)? {
            if done && !sent_one && piece.remaining() <= SMALL {
                client.send_now(piece)?;
            } else {
                client.send(piece).await?;
            }
            sent_one = true;
        }
        // What is left open when the stream ends is given back by then.
        if taken > SMALL || !body.is_end_stream() {
            let _ = body.flow_control().release_capacity(taken);
        }
    }
    if framer.is_between() {
        return Ok(());
    }
    Err(Status::internal(format!(
        "backend '{backend}' ended its answer inside a message"
    ))
    .into())
}

/// End an answer with the backend's trailers; gives the gRPC code.
pub(crate) fn end(
    client: &mut Client<'_>,
    trailers: Option<HeaderMap>,
    names: Option<(&str, &str)>,
    backend: &str,
) -> Result<u8, Failure> {
    let Some((mut trailers, code)) = trailers.and_then(|trailers| {
        let code = parse_code(trailers.get(GRPC_STATUS)?);
        Some((trailers, code))
    }) else {
        return Err(Status::of_http(StatusCode::OK, backend).into());
    };
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
