//! The one request message of a unary call: its frame, its names, and its bytes as they come.

use std::task::{ready, Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue};
use stagegate_wire::frame::{Prefix, PREFIX};
use stagegate_wire::inflate::{inflate, Encoding, InflateError};
use stagegate_wire::names::{scan_message, NameScanner, Names};
use stagegate_wire::Malformed;

use crate::client::{Client, Failure};
use crate::headers::GRPC_ENCODING;
use crate::settings::Settings;
use crate::status::{Code, Status};

/// Messages beyond this are sent on as soon as their names are known.
const WHOLE: usize = 64 << 10;
/// Messages up to this are kept, so that they can be sent a second time.
const REPLAY: usize = 1 << 20;
/// Messages up to this fit the client's window: their bytes are given back when they were sent on.
const FITS_WINDOW: usize = 1 << 20;

/// A request message, read at least as far as its names.
pub(crate) struct Message {
    body: RecvStream,
    len: usize,
    first: Bytes,
    more: Vec<Bytes>,
    have: usize,
    released: usize,
    scanner: Option<Box<NameScanner>>,
    ended: bool,
}

impl Message {
    /// Read the message so far that its names are known. `headers` tell how it is compressed; they
    /// are changed where it was inflated.
    pub(crate) async fn read(
        client: &mut Client<'_>,
        mut body: RecvStream,
        headers: &mut HeaderMap,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let (prefix, first) = read_prefix(client, &mut body).await?;
        check(prefix, settings.max_message)?;
        let len = prefix.len as usize;
        let mut message = Self {
            body,
            len,
            have: first.len(),
            first,
            more: Vec::new(),
            released: 0,
            scanner: None,
            ended: false,
        };
        if message.have > len {
            return Err(second_message().into());
        }
        if prefix.compressed == 1 {
            let encoding = encoding_of(headers)?;
            message.gather(client).await?;
            message.inflate(encoding, settings)?;
            headers.remove(GRPC_ENCODING);
        } else if message.have < len {
            message.read_names(client).await?;
        }
        if message.have == message.len {
            client.wait(|_, cx| message.poll_end(cx)).await??;
        }
        Ok(message)
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

    /// Whether it can be sent again from its start.
    pub(crate) fn is_kept(&self) -> bool {
        self.len <= REPLAY
    }

    /// All of it in one piece, where it is small and complete.
    pub(crate) fn small(&self, limit: usize) -> Option<&Bytes> {
        (self.more.is_empty() && self.have == self.len && self.len <= limit).then_some(&self.first)
    }

    /// Read the rest and give all of it in one piece.
    pub(crate) async fn whole(&mut self, client: &mut Client<'_>) -> Result<Bytes, Failure> {
        self.gather(client).await?;
        client.wait(|_, cx| self.poll_end(cx)).await??;
        self.join();
        Ok(self.first.clone())
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
                std::mem::take(piece)
            };
            return Poll::Ready(Ok(Some(piece)));
        }
        if self.have == self.len {
            return Poll::Ready(Ok(None));
        }
        let piece = ready!(self.poll_more(cx))?;
        self.more
            .push(if kept { piece.clone() } else { Bytes::new() });
        Poll::Ready(Ok(Some(piece)))
    }

    /// Ready when the client has ended its request after the message, as it must.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while !self.ended {
            if self.body.is_end_stream() {
                self.ended = true;
                break;
            }
            match ready!(self.body.poll_data(cx)) {
                None => self.ended = true,
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(_)) => return Poll::Ready(Err(second_message().into())),
                Some(Err(_)) => return Poll::Ready(Err(Failure::Gone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The first `sent` bytes of the message are on their way: let the client send as many more.
    pub(crate) fn release(&mut self, sent: usize) {
        if sent <= self.released {
            return;
        }
        let _ = self
            .body
            .flow_control()
            .release_capacity(sent - self.released);
        self.released = sent;
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        loop {
            match ready!(self.body.poll_data(cx)) {
                None => return Poll::Ready(Err(cut_short().into())),
                Some(Err(_)) => return Poll::Ready(Err(Failure::Gone)),
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return Poll::Ready(self.take(data)),
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes, Failure> {
        self.have += data.len();
        if self.have > self.len {
            return Err(second_message().into());
        }
        if let Some(scanner) = &mut self.scanner {
            scanner.feed(&data).map_err(malformed)?;
            if scanner.changed_since_decided() {
                let text =
                    "model_name and model_version of a large message must come before its tensors";
                return Err(Status::new(Code::InvalidArgument, text).into());
            }
        }
        Ok(data)
    }

    async fn more(&mut self, client: &mut Client<'_>) -> Result<(), Failure> {
        let piece = client.wait(|_, cx| self.poll_more(cx)).await??;
        self.more.push(piece);
        if self.len > FITS_WINDOW {
            self.release(self.have);
        }
        Ok(())
    }

    async fn gather(&mut self, client: &mut Client<'_>) -> Result<(), Failure> {
        while self.have < self.len {
            self.more(client).await?;
        }
        Ok(())
    }

    async fn read_names(&mut self, client: &mut Client<'_>) -> Result<(), Failure> {
        let mut scanner = Box::new(NameScanner::new(self.len));
        scanner.feed(&self.first).map_err(malformed)?;
        self.scanner = Some(scanner);
        while self.have < self.len && !(self.len > WHOLE && self.decided()) {
            self.more(client).await?;
        }
        Ok(())
    }

    fn decided(&self) -> bool {
        self.scanner
            .as_ref()
            .is_some_and(|scanner| scanner.decided())
    }

    fn inflate(&mut self, encoding: Encoding, settings: &Settings) -> Result<(), Failure> {
        self.release(self.have);
        self.join();
        let plain = inflate(
            encoding,
            &self.first,
            settings.max_message,
            settings.inflate_ratio,
        );
        self.first = plain.map_err(|error| inflate_failed(&error))?;
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

/// The prefix, and what came with it of the message.
async fn read_prefix(
    client: &mut Client<'_>,
    body: &mut RecvStream,
) -> Result<(Prefix, Bytes), Failure> {
    let mut data = next(client, body).await?.ok_or_else(no_message)?;
    if data.len() < PREFIX {
        let mut start = BytesMut::from(&data[..]);
        while start.len() < PREFIX {
            start.extend_from_slice(&next(client, body).await?.ok_or_else(cut_short)?);
        }
        data = start.freeze();
    }
    let mut prefix = [0; PREFIX];
    data.copy_to_slice(&mut prefix);
    Ok((Prefix::read(&prefix), data))
}

async fn next(client: &mut Client<'_>, body: &mut RecvStream) -> Result<Option<Bytes>, Failure> {
    loop {
        match client.wait(|_, cx| body.poll_data(cx)).await? {
            None => return Ok(None),
            Some(Err(_)) => return Err(Failure::Gone),
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => return Ok(Some(data)),
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
