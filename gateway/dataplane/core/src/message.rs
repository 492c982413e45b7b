//! The one request message of a unary call: its frame, its names, and its bytes as they come.

use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue};
use stagegate_wire::frame::{Prefix, PREFIX};
use stagegate_wire::inflate::{inflate, Encoding, InflateError};
use stagegate_wire::names::{scan_message, NameScanner, Names};
use stagegate_wire::Malformed;

use crate::budget::Held;
use crate::client::{Client, Failure};
use crate::connection::STREAM_WINDOW;
use crate::headers::GRPC_ENCODING;
use crate::limits::Limits;
use crate::status::{Code, Status};

/// Messages beyond this are sent on as soon as their names are known.
const WHOLE: usize = 64 << 10;
/// Messages up to this fit the client's window: their bytes are given back when they were sent on.
const FITS_WINDOW: usize = 1 << 20;

/// The request message of a unary call.
pub(crate) struct Message {
    /// Taken out where the call is a stream.
    body: Option<RecvStream>,
    len: usize,
    first: Bytes,
    more: Vec<Bytes>,
    have: usize,
    released: usize,
    scanner: Option<Box<NameScanner>>,
    ended: bool,
    /// Longest message that is kept to be sent again.
    replay: usize,
    held: Held,
}

/// Read the message of a call so far that its names are known. Its headers tell how it is compressed,
/// and no longer do where it was inflated.
pub(crate) async fn read(client: &mut Client, limits: &Limits) -> Result<(), Failure> {
    let prefix = match client
        .wait(|client, cx| client.message.poll_data(cx))
        .await??
    {
        Some(data) if data.len() >= PREFIX => client.message.begin(data)?,
        Some(data) => Box::pin(short_prefix(client, data)).await?,
        None => return Err(no_message().into()),
    };
    check(prefix, limits.max_message)?;
    let message = &mut client.message;
    message.replay = limits.replay;
    message.len = prefix.len as usize;
    if message.have > message.len {
        return Err(second_message().into());
    }
    if prefix.compressed == 1 {
        let encoding = encoding_of(&client.headers)?;
        gather(client).await?;
        client.message.inflate(encoding, limits)?;
        client.headers.remove(GRPC_ENCODING);
    } else if message.have < message.len {
        Box::pin(read_names(client)).await?;
    }
    if client.message.have == client.message.len {
        return client
            .wait(|client, cx| client.message.poll_end(cx))
            .await?;
    }
    Ok(())
}

/// A prefix that came in several DATA frames.
async fn short_prefix(client: &mut Client, data: Bytes) -> Result<Prefix, Failure> {
    let mut start = BytesMut::from(&data[..]);
    while start.len() < PREFIX {
        let data = client
            .wait(|client, cx| client.message.poll_data(cx))
            .await??;
        start.extend_from_slice(&data.ok_or_else(cut_short)?);
    }
    Ok(client.message.begin(start.freeze())?)
}

async fn read_names(client: &mut Client) -> Result<(), Failure> {
    client.message.scan()?;
    while client.message.needs_more() {
        more(client).await?;
    }
    Ok(())
}

/// Read the rest of the message.
pub(crate) async fn gather(client: &mut Client) -> Result<(), Failure> {
    while client.message.have < client.message.len {
        Box::pin(more(client)).await?;
    }
    Ok(())
}

async fn more(client: &mut Client) -> Result<(), Failure> {
    let piece = client
        .wait(|client, cx| client.message.poll_more(cx))
        .await??;
    let message = &mut client.message;
    message.more.push(piece);
    if message.len > FITS_WINDOW {
        message.release(message.have);
    }
    Ok(())
}

/// Read the rest and give all of it in one piece.
pub(crate) async fn whole(client: &mut Client) -> Result<Bytes, Failure> {
    gather(client).await?;
    client
        .wait(|client, cx| client.message.poll_end(cx))
        .await??;
    client.message.join();
    Ok(client.message.first.clone())
}

impl Message {
    pub(crate) fn new(body: RecvStream, held: Held) -> Self {
        Self {
            body: Some(body),
            len: 0,
            first: Bytes::new(),
            more: Vec::new(),
            have: 0,
            released: 0,
            scanner: None,
            ended: false,
            replay: 0,
            held,
        }
    }

    /// The stream itself, for a call that is no unary one.
    pub(crate) fn take_body(&mut self) -> Result<RecvStream, Failure> {
        self.body.take().ok_or(Failure::Gone)
    }

    fn begin(&mut self, mut data: Bytes) -> Result<Prefix, Status> {
        let mut prefix = [0; PREFIX];
        data.copy_to_slice(&mut prefix);
        self.have = data.len();
        self.first = data;
        self.held.add(self.have)?;
        Ok(Prefix::read(&prefix))
    }

    /// The next DATA frame with something in it; `None` at the end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(None));
        };
        loop {
            match ready!(body.poll_data(cx)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(_)) => return Poll::Ready(Err(Failure::Gone)),
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(Ok(Some(data))),
            }
        }
    }

    /// The names that are asked for.
    pub(crate) fn names(&self) -> Result<Names<'_>, Status> {
        match &self.scanner {
            Some(scanner) => Ok(scanner.names()),
            None => scan_message(&self.first).map_err(malformed),
        }
    }

    /// Length of the message, without prefix.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Hold as much as its client may still send before anybody reads on; for as long as it has to wait.
    pub(crate) fn hold_rest(&self) -> Result<Held, Status> {
        self.held
            .another((self.len - self.have).min(STREAM_WINDOW as usize))
    }

    /// Whether it is short enough to be read whole before it goes on.
    pub(crate) fn fits_window(&self) -> bool {
        self.len <= FITS_WINDOW
    }

    /// Whether all of it is here.
    pub(crate) fn is_whole(&self) -> bool {
        self.have == self.len
    }

    /// Whether it can be sent again from its start.
    pub(crate) fn is_kept(&self) -> bool {
        self.len <= self.replay
    }

    /// All of it in one piece, where it is small and complete.
    pub(crate) fn small(&self, limit: usize) -> Option<&Bytes> {
        (self.more.is_empty() && self.have == self.len && self.len <= limit).then_some(&self.first)
    }

    /// All of it in one piece, where it was kept and read to its end.
    pub(crate) fn complete(&mut self) -> Option<Bytes> {
        if !self.is_kept() || self.have < self.len {
            return None;
        }
        self.join();
        Some(self.first.clone())
    }

    /// The piece of that number; they are to be asked for in order. `None` after the last.
    pub(crate) fn poll_piece(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Failure>> {
        let kept = self.is_kept();
        let known = if number == 0 {
            Some(&mut self.first)
        } else {
            self.more.get_mut(number - 1)
        };
        if let Some(piece) = known {
            let piece = if kept {
                piece.clone()
            } else {
                self.held.sub(piece.len());
                std::mem::take(piece)
            };
            return Poll::Ready(Ok(Some(piece)));
        }
        if self.have == self.len {
            return Poll::Ready(Ok(None));
        }
        let piece = ready!(self.poll_more(cx))?;
        if kept {
            self.more.push(piece.clone());
        } else {
            self.held.sub(piece.len());
            self.more.push(Bytes::new());
        }
        Poll::Ready(Ok(Some(piece)))
    }

    /// Ready when the client has ended its request after the message, as it must.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let open = self.body.as_ref().is_some_and(|body| !body.is_end_stream());
        if !self.ended && open && ready!(self.poll_data(cx))?.is_some() {
            return Poll::Ready(Err(second_message().into()));
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    /// The first `sent` bytes of the message are on their way: let the client send as many more.
    pub(crate) fn release(&mut self, sent: usize) {
        if let (true, Some(body)) = (sent > self.released, &mut self.body) {
            let _ = body.flow_control().release_capacity(sent - self.released);
            self.released = sent;
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        let data = ready!(self.poll_data(cx))?;
        Poll::Ready(
            data.ok_or_else(|| cut_short().into())
                .and_then(|data| self.take(data)),
        )
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        self.have += data.len();
        if self.have > self.len {
            return Err(second_message().into());
        }
        self.held.add(data.len())?;
        if let Some(scanner) = &mut self.scanner {
            scanner.feed(&data).map_err(malformed)?;
            if scanner.changed_since_decided() {
                let text =
                    "model_name, model_version and sequence_id of a large message must come \
                            before its tensors";
                return Err(Status::new(Code::InvalidArgument, text).into());
            }
        }
        Ok(data)
    }

    fn scan(&mut self) -> Result<(), Status> {
        let mut scanner = Box::new(NameScanner::new(self.len));
        scanner.feed(&self.first).map_err(malformed)?;
        self.scanner = Some(scanner);
        Ok(())
    }

    /// Whether more must be read before the message can be routed.
    fn needs_more(&self) -> bool {
        self.have < self.len && !(self.len > WHOLE && self.decided())
    }

    fn decided(&self) -> bool {
        self.scanner
            .as_ref()
            .is_some_and(|scanner| scanner.decided())
    }

    fn inflate(&mut self, encoding: Encoding, limits: &Limits) -> Result<(), Failure> {
        self.release(self.have);
        self.join();
        let plain = inflate(
            encoding,
            &self.first,
            limits.max_message,
            limits.inflate_ratio,
        );
        let plain = plain.map_err(|error| inflate_failed(&error))?;
        self.held.add(plain.len())?;
        self.held.sub(self.have);
        self.first = plain;
        self.len = self.first.len();
        self.have = self.len;
        // All that came is given back already.
        self.released = usize::MAX;
        Ok(())
    }

    fn join(&mut self) {
        if !self.more.is_empty() {
            let mut all = BytesMut::with_capacity(self.have);
            all.extend_from_slice(&self.first);
            self.more
                .drain(..)
                .for_each(|piece| all.extend_from_slice(&piece));
            self.first = all.freeze();
        }
    }
}

/// Refuse what a prefix announces before anything is kept of it.
pub(crate) fn check(prefix: Prefix, most: usize) -> Result<(), Status> {
    if prefix.compressed > 1 {
        return Err(Status::internal(
            "the compressed flag of a message is neither 0 nor 1",
        ));
    }
    if prefix.len as usize > most {
        let text = format!(
            "the message has {} bytes, the gateway takes at most {most} (limits.max_message)",
            prefix.len
        );
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(())
}

/// How compressed messages of a request are to be opened.
pub(crate) fn encoding_of(headers: &HeaderMap) -> Result<Encoding, Status> {
    let value = headers
        .get(GRPC_ENCODING)
        .map_or(&b""[..], HeaderValue::as_bytes);
    if matches!(value, b"" | b"identity") {
        return Err(Status::internal(
            "a message is marked as compressed, but grpc-encoding names no encoding",
        ));
    }
    Encoding::parse(value).ok_or_else(|| {
        let text = format!(
            "grpc-encoding '{}' is not supported",
            String::from_utf8_lossy(value)
        );
        Status::new(Code::Unimplemented, text)
    })
}

/// What to answer to a message that cannot be inflated.
pub(crate) fn inflate_failed(error: &InflateError) -> Status {
    let code = match error {
        InflateError::Corrupt => Code::Internal,
        _ => Code::ResourceExhausted,
    };
    Status::new(code, error.to_string())
}

pub(crate) fn malformed(error: Malformed) -> Status {
    Status::internal(format!(
        "the request is not a valid protobuf message: {error}"
    ))
}

pub(crate) fn cut_short() -> Status {
    Status::internal("the request ended inside a message")
}

fn no_message() -> Status {
    Status::internal("the request has no message")
}

fn second_message() -> Status {
    Status::internal("a unary request has more than one message")
}
