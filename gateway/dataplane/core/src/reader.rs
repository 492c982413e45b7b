//! The messages of a stream, one after the other, whole.

use std::task::{ready, Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use stagegate_wire::frame::{Prefix, PREFIX};
use stagegate_wire::inflate::inflate;

use crate::budget::Held;
use crate::framer::Caps;
use crate::message::{check, cut_short, encoding_of, inflate_failed};
use crate::status::Status;

/// Why there is no next message.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The messages are against the rules.
    Status(Status),
    /// The stream broke.
    Broken(h2::Error),
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Reads messages; holds at most the one being read and the rest of one DATA frame.
pub(crate) struct Reader {
    body: RecvStream,
    data: Bytes,
    start: BytesMut,
    /// The message being read, without prefix.
    prefix: Option<Prefix>,
    kept: BytesMut,
    caps: Caps,
    /// Counts what is held of messages that came in pieces, until the next one is asked for.
    held: Option<Held>,
    given: usize,
}

impl Reader {
    pub(crate) fn new(body: RecvStream, caps: Caps) -> Self {
        Self {
            body,
            data: Bytes::new(),
            start: BytesMut::new(),
            prefix: None,
            kept: BytesMut::new(),
            caps,
            held: None,
            given: 0,
        }
    }

    /// Count what is held of messages that come in pieces.
    pub(crate) fn counted(self, held: Held) -> Self {
        Self {
            held: Some(held),
            ..self
        }
    }

    /// The stream, for its trailers.
    pub(crate) fn body(&mut self) -> &mut RecvStream {
        &mut self.body
    }

    /// The next message, inflated by the encoding that `headers` name; `None` at the end.
    pub(crate) fn poll_message(
        &mut self,
        headers: &HeaderMap,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        if let Some(held) = &mut self.held {
            held.sub(std::mem::take(&mut self.given));
        }
        loop {
            if let Some(message) = self.take(headers)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.data = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(ReadError::Broken(error))),
                None if self.prefix.is_none() && self.start.is_empty() => {
                    return Poll::Ready(Ok(None))
                }
                None => return Poll::Ready(Err(cut_short().into())),
            }
        }
    }

    fn take(&mut self, headers: &HeaderMap) -> Result<Option<Bytes>, Status> {
        let Some(prefix) = self.prefix() else {
            return Ok(None);
        };
        check(prefix, self.caps.message)?;
        let len = prefix.len as usize;
        let message = if self.kept.is_empty() && self.data.len() >= len {
            self.data.split_to(len)
        } else {
            let part = self.data.len().min(len - self.kept.len());
            if let Some(held) = &mut self.held {
                held.add(part)?;
            }
            self.kept.extend_from_slice(&self.data.split_to(part));
            if self.kept.len() < len {
                return Ok(None);
            }
            self.given = len;
            std::mem::take(&mut self.kept).freeze()
        };
        self.prefix = None;
        if prefix.compressed == 0 {
            return Ok(Some(message));
        }
        let encoding = encoding_of(headers)?;
        let plain = inflate(encoding, &message, self.caps.message, self.caps.ratio);
        plain.map(Some).map_err(|error| inflate_failed(&error))
    }

    fn prefix(&mut self) -> Option<Prefix> {
        if self.prefix.is_none() {
            let part = self.data.len().min(PREFIX - self.start.len());
            self.start.extend_from_slice(&self.data.split_to(part));
            let start: [u8; PREFIX] = self.start[..].try_into().ok()?;
            self.start.clear();
            self.prefix = Some(Prefix::read(&start));
        }
        self.prefix
    }
}
