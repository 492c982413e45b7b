//! Messages of an answer as they come from a backend, each renamed by a tail.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use stagegate_wire::frame::{Prefix, PREFIX};
use stagegate_wire::inflate::{inflate, Encoding};

use crate::headers::GRPC_ENCODING;
use crate::joined::Joined;
use crate::limits::Limits;
use crate::message::{check, inflate_failed};
use crate::status::Status;

/// Caps for what must be inflated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) message: usize,
    pub(crate) ratio: usize,
}

impl Caps {
    pub(crate) fn of(limits: &Limits) -> Self {
        Self {
            message: limits.max_message,
            ratio: limits.inflate_ratio,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Reading a prefix; so many bytes of it are here.
    Prefix([u8; PREFIX], usize),
    /// In a message; so many bytes of it are to come.
    Body { left: usize, raw: bool },
    /// In a compressed message, which is kept until it can be inflated.
    Packed {
        len: usize,
        kept: BytesMut,
        encoding: Encoding,
    },
}

/// Turns DATA frames into pieces for the client.
#[derive(Debug)]
pub(crate) struct Framer {
    state: State,
    tail: Bytes,
    encoding: Option<Encoding>,
    caps: Caps,
}

impl Framer {
    /// `headers` of the answer tell how compressed messages are to be opened.
    pub(crate) fn new(tail: Bytes, headers: &HeaderMap, caps: Caps) -> Self {
        let encoding = headers
            .get(GRPC_ENCODING)
            .map(HeaderValue::as_bytes)
            .and_then(Encoding::parse);
        Self {
            state: State::Prefix([0; PREFIX], 0),
            tail,
            encoding,
            caps,
        }
    }

    /// Whether the answer stands between two messages.
    pub(crate) fn is_between(&self) -> bool {
        matches!(self.state, State::Prefix(_, 0))
    }

    /// The next piece in `data`, and whether a message ends with it; `None` where more is needed.
    pub(crate) fn next(&mut self, data: &mut Bytes) -> Result<Option<(Joined, bool)>, Status> {
        if let State::Prefix(start, have) = &mut self.state {
            let part = data.len().min(PREFIX - *have);
            data.copy_to_slice(&mut start[*have..*have + part]);
            *have += part;
            if *have < PREFIX {
                return Ok(None);
            }
            let prefix = Prefix::read(start);
            return self.begin(prefix, data);
        }
        if data.is_empty() {
            return Ok(None);
        }
        match &mut self.state {
            State::Body { left, raw } => {
                let body = data.split_to(data.len().min(*left));
                *left -= body.len();
                let (done, raw) = (*left == 0, *raw);
                Ok(Some((Joined::rest(body, self.end(done, raw)), done)))
            }
            State::Packed { .. } => self.unpack(data),
            State::Prefix(..) => Ok(None),
        }
    }

    fn begin(
        &mut self,
        prefix: Prefix,
        data: &mut Bytes,
    ) -> Result<Option<(Joined, bool)>, Status> {
        let len = prefix.len as usize;
        if let (1, Some(encoding)) = (prefix.compressed, self.encoding) {
            check(prefix, self.caps.message)?;
            self.state = State::Packed {
                len,
                kept: BytesMut::new(),
                encoding,
            };
            return self.unpack(data);
        }
        // What cannot be opened cannot be renamed either.
        let raw = prefix.compressed != 0;
        let tail = if raw { 0 } else { self.tail.len() };
        let Some(total) = prefix.len.checked_add(tail as u32) else {
            return Err(Status::internal(
                "the answer is longer than a gRPC message can be",
            ));
        };
        let body = data.split_to(data.len().min(len));
        let done = body.len() == len;
        self.state = State::Body {
            left: len - body.len(),
            raw,
        };
        let prefix = Prefix {
            compressed: prefix.compressed,
            len: total,
        };
        Ok(Some((
            Joined::with_prefix(prefix, body, self.end(done, raw)),
            done,
        )))
    }

    /// The tail where the message ends, and on to the next one.
    fn end(&mut self, done: bool, raw: bool) -> Bytes {
        if done {
            self.state = State::Prefix([0; PREFIX], 0);
        }
        if done && !raw {
            self.tail.clone()
        } else {
            Bytes::new()
        }
    }

    fn unpack(&mut self, data: &mut Bytes) -> Result<Option<(Joined, bool)>, Status> {
        let State::Packed {
            len,
            kept,
            encoding,
        } = &mut self.state
        else {
            return Ok(None);
        };
        kept.extend_from_slice(&data.split_to(data.len().min(*len - kept.len())));
        if kept.len() < *len {
            return Ok(None);
        }
        let plain = inflate(*encoding, kept, self.caps.message, self.caps.ratio)
            .map_err(|error| inflate_failed(&error))?;
        let tail = self.end(true, false);
        Ok(Some((Joined::message(plain, tail), true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps {
        message: 1 << 20,
        ratio: 100,
    };

    fn run(input: &[u8], cut: usize, headers: &HeaderMap) -> Result<(Vec<u8>, usize), Status> {
        let mut framer = Framer::new(Bytes::from_static(b"TAIL"), headers, CAPS);
        let (mut out, mut messages) = (Vec::new(), 0);
        for chunk in input.chunks(cut) {
            let mut data = Bytes::copy_from_slice(chunk);
            while let Some((mut piece, done)) = framer.next(&mut data)? {
                let len = piece.remaining();
                out.extend_from_slice(&piece.copy_to_bytes(len));
                messages += usize::from(done);
            }
        }
        assert!(framer.is_between());
        Ok((out, messages))
    }

    #[test]
    fn each_message_gets_the_tail_wherever_the_frames_are_cut() {
        let input = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01x";
        let expected = b"\0\0\0\0\x07abcTAIL\0\0\0\0\x04TAIL\0\0\0\0\x05xTAIL".to_vec();
        for cut in 1..=input.len() {
            assert_eq!(
                (expected.clone(), 3),
                run(input, cut, &HeaderMap::new()).unwrap(),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_compressed_message_is_inflated_and_renamed() {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"abc").unwrap();
        let packed = encoder.finish().unwrap();
        let mut input = Prefix {
            compressed: 1,
            len: packed.len() as u32,
        }
        .write()
        .to_vec();
        input.extend_from_slice(&packed);
        let headers = HeaderMap::from_iter([(GRPC_ENCODING, HeaderValue::from_static("gzip"))]);
        for cut in [1, 7, input.len()] {
            let expected = (b"\0\0\0\0\x07abcTAIL".to_vec(), 1);
            assert_eq!(expected, run(&input, cut, &headers).unwrap(), "{cut}");
        }
    }

    #[test]
    fn a_message_in_an_encoding_we_cannot_open_passes_as_it_is() {
        let input = b"\x01\0\0\0\x03abc";

        assert_eq!(
            (input.to_vec(), 1),
            run(input, 4, &HeaderMap::new()).unwrap()
        );
    }
}
