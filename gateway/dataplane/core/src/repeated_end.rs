//! Takes out of what a backend sends that a stream ends which ended before.
//!
//! Where the deadline of a call passes inside a gRPC C++ server, as Triton is one, that may send the trailers
//! of the call, which end its stream, and `RST_STREAM` up to four times over. To h2 the second trailers are
//! those of a stream that it forgot, which it resets, and the third an error of the whole connection: all
//! other calls on it would be lost with this one.

use std::io;
use std::task::{ready, Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::ReadBuf;

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// A kind of frame that there is not: receivers ignore those.
const UNKNOWN: u8 = 0xff;
/// Of a DATA or HEADERS frame.
const END_STREAM: u8 = 1;
/// Of a HEADERS frame.
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// The longest header block that is taken out. Longer ones go on as they are.
const LONGEST: usize = 4 << 10;
/// Streams of which it is remembered that they ended.
const REMEMBERED: usize = 1 << 10;

/// Follows the frames of one connection.
#[derive(Debug)]
pub(crate) struct RepeatedEnds {
    /// The beginning of a frame that was not given on yet.
    part: BytesMut,
    /// What is to be given on before anything else is read.
    out: BytesMut,
    /// Bytes of the current payload that are to come.
    left: usize,
    /// The last stream that ended, for each remainder of their numbers.
    ended: [u32; REMEMBERED],
}

/// The first bytes of a frame.
type Head = [u8; HEAD];

fn length([high, middle, low, ..]: &Head) -> usize {
    usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low)
}

/// One bit of it is reserved.
fn stream([.., one, two, three, four]: &Head) -> u32 {
    u32::from_be_bytes([one & 0x7f, *two, *three, *four])
}

/// Clients have the odd numbers.
fn place(stream: u32) -> usize {
    (stream >> 1) as usize % REMEMBERED
}

impl RepeatedEnds {
    /// For a connection of which nothing was read yet.
    pub(crate) fn new() -> Self {
        Self {
            part: BytesMut::new(),
            out: BytesMut::new(),
            left: 0,
            ended: [0; REMEMBERED],
        }
    }

    /// Read by `read`, and put what is to be seen of it into `buf`.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.give(buf) {
                return Poll::Ready(Ok(()));
            }
            let got = if self.part.is_empty() {
                ready!(read(cx, buf))?;
                let got = buf.filled().len() - before;
                let given = self.mend(&mut buf.filled_mut()[before..]);
                buf.set_filled(before + given);
                got
            } else {
                let mut rest = [0; LONGEST];
                let mut rest = ReadBuf::new(&mut rest[..self.missing()]);
                ready!(read(cx, &mut rest))?;
                self.complete(rest.filled());
                rest.filled().len()
            };
            // Nothing at all would say that the connection ended.
            if got == 0 || buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The next bytes of the connection; how many of them are to be given on now.
    fn mend(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.len() - at;
            if self.left >= rest {
                self.left -= rest;
                return bytes.len();
            }
            at += std::mem::take(&mut self.left);
            let frame = &mut bytes[at..];
            let Some(&head) = frame.first_chunk() else {
                self.part.extend_from_slice(frame);
                return at;
            };
            if !self.is_repeated(&head) {
                self.begin(&head);
                at += HEAD;
                continue;
            }
            let Some(repeated) = frame.get_mut(..HEAD + length(&head)) else {
                self.part.extend_from_slice(frame);
                return at;
            };
            if is_stateless(&repeated[HEAD..]) {
                repeated[3] = UNKNOWN;
            }
            at += repeated.len();
        }
    }

    /// How many bytes what was begun is short of.
    fn missing(&self) -> usize {
        let whole = match self.part.first_chunk() {
            Some(head) => HEAD + length(head),
            None => HEAD,
        };
        whole - self.part.len()
    }

    /// The next bytes of what was begun; no more than are missing.
    fn complete(&mut self, bytes: &[u8]) {
        self.part.extend_from_slice(bytes);
        let Some(&head) = self.part.first_chunk() else {
            return;
        };
        if !self.is_repeated(&head) {
            self.begin(&head);
        } else if self.missing() > 0 {
            return;
        } else if is_stateless(&self.part[HEAD..]) {
            self.part.clear();
        }
        self.out = self.part.split();
    }

    /// Put what goes before all that is read into `buf`; false where that is nothing.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = self.out.len().min(buf.remaining());
        buf.put_slice(&self.out[..len]);
        self.out.advance(len);
        len > 0
    }

    /// Whether a frame is a whole header block of a stream that ended, as far as its head tells.
    fn is_repeated(&self, head: &Head) -> bool {
        let (kind, flags) = (head[3], head[4]);
        kind == HEADERS
            && self.ended[place(stream(head))] == stream(head)
            && flags & (END_HEADERS | PADDED | PRIORITY) == END_HEADERS
            && length(head) <= LONGEST
    }

    /// A frame that goes on as it is.
    fn begin(&mut self, head: &Head) {
        self.left = length(head);
        let (kind, flags) = (head[3], head[4]);
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            let stream = stream(head);
            self.ended[place(stream)] = stream;
        }
    }
}

/// Whether blocks behind this one mean the same without it: it puts nothing into the table that they are
/// read by (RFC 7541, section 6).
fn is_stateless(block: &[u8]) -> bool {
    let mut rest = Some(block);
    while let Some([first, ..]) = rest {
        let bytes = rest.unwrap_or_default();
        rest = match first {
            0x80.. => integer(bytes, 7).map(|(_, rest)| rest),
            0x20..0x80 => None,
            _ => integer(bytes, 4).and_then(|(name, rest)| {
                let rest = if name == 0 { text(rest)? } else { rest };
                text(rest)
            }),
        };
    }
    rest.is_some()
}

/// A number whose first byte has so many bits of it, and what is behind it. None beyond 2 bytes more.
fn integer(bytes: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let most = (1 << bits) - 1;
    let begun = first & most;
    if begun < most {
        return Some((usize::from(begun), rest));
    }
    match rest {
        [low @ ..0x80, rest @ ..] => Some((usize::from(most) + usize::from(*low), rest)),
        [low, high @ ..0x80, rest @ ..] => {
            let more = usize::from(low & 0x7f) | usize::from(*high) << 7;
            Some((usize::from(most) + more, rest))
        }
        _ => None,
    }
}

/// What is behind a text.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = integer(bytes, 7)?;
    rest.get(len..)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use tokio::io::{duplex, AsyncRead as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const RST_STREAM: u8 = 3;
    const CONTINUATION: u8 = 9;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
        let mut out = vec![high, middle, low, kind, flags];
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    fn reset(stream: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, &[0; 4])
    }

    fn data(stream: u32) -> Vec<u8> {
        frame(DATA, 0, stream, b"some bytes")
    }

    /// As Triton sends them: nothing of it is to be remembered.
    fn trailers(stream: u32) -> Vec<u8> {
        let block = b"\x08\x03200\0\x0bgrpc-status\x014";
        frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
    }

    /// A backend, and what h2 reads of it.
    struct Pair {
        far: DuplexStream,
        near: DuplexStream,
        ends: RepeatedEnds,
    }

    impl Pair {
        fn new() -> Self {
            let (far, near) = duplex(1 << 20);
            let ends = RepeatedEnds::new();
            Self { far, near, ends }
        }

        /// One read of at most so many bytes; None where nothing is there.
        async fn read(&mut self, most: usize) -> Option<Vec<u8>> {
            let mut room = vec![0; most];
            let mut buf = ReadBuf::new(&mut room);
            let (ends, near) = (&mut self.ends, &mut self.near);
            let read = poll_fn(|cx| {
                let read = |cx: &mut Context<'_>, buf: &mut ReadBuf<'_>| {
                    Pin::new(&mut *near).poll_read(cx, buf)
                };
                Poll::Ready(ends.poll_read(cx, &mut buf, read))
            });
            match tokio::task::unconstrained(read).await {
                Poll::Ready(outcome) => outcome.unwrap(),
                Poll::Pending => return None,
            }
            Some(buf.filled().to_vec())
        }

        /// All that can be read now, in reads of at most so many bytes.
        async fn read_all(&mut self, most: usize) -> Vec<u8> {
            let mut all = Vec::new();
            while let Some(more) = self.read(most).await {
                assert!(!more.is_empty());
                all.extend(more);
            }
            all
        }
    }

    /// What is seen of these parts, each of which was read before the next was sent.
    async fn seen(parts: &[&[u8]]) -> Vec<u8> {
        let mut pair = Pair::new();
        let mut seen = Vec::new();
        for part in parts {
            pair.far.write_all(part).await.unwrap();
            seen.extend(pair.read_all(1 << 10).await);
        }
        known(&seen)
    }

    /// Without the frames that receivers ignore.
    fn known(mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(head) = bytes.first_chunk() {
            let (frame, rest) = bytes.split_at(HEAD + length(head));
            if head[3] != UNKNOWN {
                out.extend_from_slice(frame);
            }
            bytes = rest;
        }
        assert!(bytes.is_empty());
        out
    }

    #[tokio::test]
    async fn a_stream_ends_once_however_it_is_cut() {
        let (end, reset, other) = (trailers(3), reset(3), trailers(5));
        let sent = [&end[..], &reset, &end, &reset, &data(7), &other, &end].concat();
        let wanted = [&end[..], &reset, &reset, &data(7), &other].concat();
        for one in 0..=sent.len() {
            for two in one..=sent.len() {
                let parts = [&sent[..one], &sent[one..two], &sent[two..]];
                assert_eq!(wanted, seen(&parts).await, "{one} {two}");
            }
        }
        for most in 1..sent.len() {
            let mut pair = Pair::new();
            pair.far.write_all(&sent).await.unwrap();
            assert_eq!(wanted, known(&pair.read_all(most).await), "{most}");
        }
    }

    #[tokio::test]
    async fn what_comes_once_or_changes_the_table_goes_on() {
        let both = END_STREAM | END_HEADERS;
        let head = frame(HEADERS, END_HEADERS, 3, &[0x88]);
        let last = frame(DATA, END_STREAM, 3, b"the last");
        let remembered = frame(HEADERS, both, 3, b"\x40\x01a\x01b");
        let open = frame(HEADERS, END_STREAM, 3, &[0x88]);
        let rest = frame(CONTINUATION, END_HEADERS, 3, &[0x88]);
        let padded = frame(HEADERS, both | PADDED, 3, &[0, 0x88]);
        let long = frame(HEADERS, both, 3, &[0x88; LONGEST + 1]);
        for sent in [
            [&head[..], &data(3), &trailers(3), &reset(3), &reset(3)].concat(),
            [&trailers(3)[..], &trailers(5), &trailers(2051)].concat(),
            [&trailers(3)[..], &last].concat(),
            [&trailers(3)[..], &remembered].concat(),
            [&trailers(3)[..], &open, &rest].concat(),
            [&trailers(3)[..], &padded].concat(),
            [&trailers(3)[..], &long].concat(),
            [&trailers(3)[..], &frame(DATA, 0, 1, &trailers(3))].concat(),
        ] {
            assert_eq!(sent, seen(&[&sent]).await);
        }
        let ended = [last, trailers(3)].concat();
        assert_eq!(ended[..17], seen(&[&ended]).await);
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_seen() {
        for sent in [&b""[..], &trailers(3), &data(1)[..5]] {
            let mut pair = Pair::new();
            pair.far.write_all(sent).await.unwrap();
            pair.far.shutdown().await.unwrap();
            while pair
                .read(1 << 10)
                .await
                .is_some_and(|read| !read.is_empty())
            {}

            assert_eq!(Some(Vec::new()), pair.read(1 << 10).await);
        }
    }

    #[test]
    fn blocks_that_put_nothing_into_the_table() {
        let long = [&[0, 1, b'a', 0x7f, 0x81, 1][..], &[b'x'; 256]].concat();
        for block in [
            &b""[..],
            b"\x88",
            b"\xff\x05",
            b"\x08\x03200",
            b"\x0f\x05\x03abc",
            b"\x10\x01a\x01b",
            b"\0\x81a\x81b\x88",
            &long,
        ] {
            assert!(is_stateless(block), "{block:?}");
        }
        for block in [
            &b"\x40\x01a\x01b"[..],
            b"\x48\x03200",
            b"\x3f\xe1\x1f",
            b"\x20",
            b"\x88\x40\x01a\x01b",
            b"\x08\x0320",
            b"\x08",
            b"\0\x01a",
            b"\xff",
            b"\xff\x80\x80\x80\x01",
            &long[1..],
        ] {
            assert!(!is_stateless(block), "{block:?}");
        }
    }
}
