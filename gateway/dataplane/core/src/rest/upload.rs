//! The body of a request on its way to a backend: as it came, within the limits.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use stagegate_wire::inflate::InflateError;
use stagegate_wire::inflating::Inflating;
use tokio::time::{Instant, Sleep};

use crate::budget::{Budget, Held};
use crate::limits::Limits;
use crate::rest::refusal::Refusal;
use crate::status::{Code, Status};

/// Pieces of a chunked body are put together to at least this, so that a backend never meets a flood
/// of tiny ones.
const PIECE: usize = 16 << 10;
/// Pieces that a chunked body may have whatever its size, and bytes that each further one must have
/// on average.
const FREE_PIECES: usize = 4096;
const LEAST_PIECE: usize = 64;
/// How long a client may take for the next piece of a body.
const STALL: Duration = Duration::from_secs(30);

/// Why a body was given up; the exchange asks for it when the sending failed.
pub(crate) type Given = Rc<RefCell<Option<Refusal>>>;

/// A body of a request, on its way.
pub(crate) enum Upload {
    /// All of it, or what is left of it.
    Whole(Option<Bytes>),
    /// As the client sends it.
    Passing(Box<Passing>),
}

/// A body that is sent on while it comes.
pub(crate) struct Passing {
    incoming: Incoming,
    limits: BodyLimits,
    /// Pieces of a chunked body that are put together.
    joined: BytesMut,
    chunked: bool,
    ended: bool,
    stall: Pin<Box<Sleep>>,
    given: Given,
}

/// What a body has to keep to.
pub(crate) struct BodyLimits {
    most: usize,
    len: usize,
    pieces: usize,
    chunked: bool,
    inflating: Option<Inflating>,
}

/// The body was given up; why is in [`Given`].
#[derive(Debug)]
pub(crate) struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of the request was given up")
    }
}

impl std::error::Error for GivenUp {}

impl From<Infallible> for GivenUp {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl BodyLimits {
    /// The limits of a request with these headers and, where it is known, this length of its body.
    pub(crate) fn new(
        headers: &HeaderMap,
        length: Option<u64>,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        let most = limits.max_message;
        if length.is_some_and(|length| length > most as u64) {
            return Err(too_large(most));
        }
        let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
        let encoding = encodings.next();
        if encodings.next().is_some() {
            // Triton would look at the first one only.
            let text = "Unsupported compression type";
            return Err(Status::new(Code::Unimplemented, text).into());
        }
        let packed = encoding.is_some_and(|name| name == "gzip" || name == "deflate");
        let length_of_packed = length.and_then(|length| usize::try_from(length).ok());
        Ok(Self {
            most,
            len: 0,
            pieces: 0,
            chunked: length.is_none(),
            inflating: packed.then(|| Inflating::new(length_of_packed, most, limits.inflate_ratio)),
        })
    }

    /// Look at the next piece of the body.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        self.len += piece.len();
        self.pieces += 1;
        if self.len > self.most {
            return Err(too_large(self.most));
        }
        if self.chunked && self.pieces > FREE_PIECES + self.len / LEAST_PIECE {
            return Err(Refusal::too_large(
                "the body has too many small chunks; send larger ones, or a Content-Length",
            ));
        }
        match self
            .inflating
            .as_mut()
            .map(|inflating| inflating.feed(piece))
        {
            None | Some(Ok(())) => Ok(()),
            Some(Err(InflateError::Corrupt)) => Err(Status::new(
                Code::InvalidArgument,
                "the body is not compressed as its Content-Encoding says",
            )
            .into()),
            Some(Err(error)) => Err(Refusal::too_large(error.to_string())),
        }
    }
}

fn too_large(most: usize) -> Refusal {
    Refusal::too_large(format!(
        "the body is larger than limits.max_message ({most} bytes)"
    ))
}

/// A body that was read to its end.
pub(crate) struct Whole {
    pub(crate) body: Bytes,
    /// How it begins, without its encoding.
    pub(crate) plain: Bytes,
    /// Keeps its place among the bytes that the gateway holds.
    pub(crate) held: Held,
}

/// A body that was read as far as it may be kept.
pub(crate) enum Begun {
    /// To its end.
    Whole(Whole),
    /// It is longer, and goes on.
    More(Box<More>),
}

/// A body of which a part was read.
pub(crate) struct More {
    read: BytesMut,
    incoming: Incoming,
    limits: BodyLimits,
    /// Keeps the place of what was read.
    held: Held,
}

/// Read a body to its end.
pub(crate) async fn read_whole(
    incoming: Incoming,
    limits: BodyLimits,
    budget: &Rc<Budget>,
) -> Result<Whole, Refusal> {
    match read_most(incoming, limits, budget, usize::MAX).await? {
        Begun::Whole(whole) => Ok(whole),
        Begun::More(_) => Err(broken()),
    }
}

/// Read a body to its end, or until there is more of it than `most` bytes.
pub(crate) async fn read_most(
    mut incoming: Incoming,
    mut limits: BodyLimits,
    budget: &Rc<Budget>,
    most: usize,
) -> Result<Begun, Refusal> {
    let mut held = Held::new(budget);
    let mut pieces = Vec::new();
    let mut len = 0;
    while let Some(frame) = next(&mut incoming).await? {
        let Ok(data) = frame.map_err(|_| broken())?.into_data() else {
            continue;
        };
        limits.take(&data)?;
        held.add(data.len())?;
        len += data.len();
        pieces.push(data);
        if len > most {
            return Ok(Begun::More(Box::new(More {
                read: joined(&pieces, len),
                incoming,
                limits,
                held,
            })));
        }
    }
    let body = match &mut pieces[..] {
        [] => Bytes::new(),
        [only] => std::mem::take(only),
        many => joined(many, len).freeze(),
    };
    let plain = match &limits.inflating {
        Some(inflating) => Bytes::copy_from_slice(inflating.begin()),
        None => body.clone(),
    };
    Ok(Begun::Whole(Whole { body, plain, held }))
}

fn joined(pieces: &[Bytes], len: usize) -> BytesMut {
    let mut whole = BytesMut::with_capacity(len);
    for piece in pieces {
        whole.extend_from_slice(piece);
    }
    whole
}

/// The next frame, unless the client takes too long for it.
async fn next(
    incoming: &mut Incoming,
) -> Result<Option<Result<Frame<Bytes>, hyper::Error>>, Refusal> {
    tokio::time::timeout(STALL, incoming.frame())
        .await
        .map_err(|_| too_slow())
}

fn too_slow() -> Refusal {
    Status::new(
        Code::DeadlineExceeded,
        "the body of the request came too slowly",
    )
    .into()
}

fn broken() -> Refusal {
    Status::new(
        Code::InvalidArgument,
        "the body of the request ended too early or is malformed",
    )
    .into()
}

impl Upload {
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body))
    }

    pub(crate) fn passing(incoming: Incoming, limits: BodyLimits, given: &Given) -> Self {
        Self::Passing(Box::new(Passing {
            incoming,
            chunked: limits.chunked,
            limits,
            joined: BytesMut::new(),
            ended: false,
            stall: Box::pin(tokio::time::sleep(STALL)),
            given: Rc::clone(given),
        }))
    }

    /// A chunked body of which a part was read; that part keeps its place for as long as the second lives.
    pub(crate) fn after(more: More, given: &Given) -> (Self, Held) {
        let mut upload = Self::passing(more.incoming, more.limits, given);
        if let Self::Passing(passing) = &mut upload {
            passing.joined = more.read;
        }
        (upload, more.held)
    }
}

impl Passing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        loop {
            if self.ended {
                let rest = self.joined.split().freeze();
                return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                ready!(self.stall.as_mut().poll(cx));
                return Poll::Ready(Some(Err(too_slow())));
            };
            self.stall.as_mut().reset(Instant::now() + STALL);
            let Some(frame) = frame else {
                self.ended = true;
                continue;
            };
            let Ok(frame) = frame else {
                return Poll::Ready(Some(Err(broken())));
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if let Err(refusal) = self.limits.take(&data) {
                return Poll::Ready(Some(Err(refusal)));
            }
            if let Some(piece) = self.join(data) {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
    }

    /// A piece that is to be sent, once it is large enough.
    fn join(&mut self, data: Bytes) -> Option<Bytes> {
        if !self.chunked || (self.joined.is_empty() && data.len() >= PIECE) {
            return (!data.is_empty()).then_some(data);
        }
        self.joined.extend_from_slice(&data);
        (self.joined.len() >= PIECE).then(|| self.joined.split().freeze())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        match &mut *self {
            Self::Whole(body) => {
                let body = body.take().filter(|body| !body.is_empty());
                Poll::Ready(body.map(|body| Ok(Frame::data(body))))
            }
            Self::Passing(passing) => Poll::Ready(match ready!(passing.poll(cx)) {
                None => None,
                Some(Ok(piece)) => Some(Ok(Frame::data(piece))),
                Some(Err(refusal)) => {
                    passing.given.replace(Some(refusal));
                    Some(Err(GivenUp))
                }
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Self::Passing(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Passing(passing) if passing.chunked => SizeHint::default(),
            Self::Passing(passing) => passing.incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn most() -> Limits {
        Limits::of(&Settings {
            max_message: 1 << 20,
            ..Settings::default()
        })
    }

    fn limits(length: Option<u64>) -> BodyLimits {
        BodyLimits::new(&HeaderMap::new(), length, &most()).unwrap()
    }

    #[test]
    fn a_body_that_says_that_it_is_too_long_is_not_read() {
        let length = Some(most().max_message as u64 + 1);

        let refusal = BodyLimits::new(&HeaderMap::new(), length, &most()).err();

        assert_eq!(413, refusal.unwrap().http.as_u16());
    }

    #[test]
    fn a_body_that_becomes_too_long_is_ended() {
        let mut limits = limits(None);

        let piece = vec![0; 64 << 10];
        assert!((0..16).all(|_| limits.take(&piece).is_ok()));
        assert_eq!(413, limits.take(b"x").unwrap_err().http.as_u16());
    }

    #[test]
    fn a_flood_of_tiny_chunks_is_ended() {
        let mut flood = limits(None);
        let passed = (0..100_000).take_while(|_| flood.take(b"x").is_ok());
        assert!((FREE_PIECES..FREE_PIECES + 100).contains(&passed.count()));

        let mut slow = limits(Some(100_000));
        assert!((0..100_000).all(|_| slow.take(b"x").is_ok()));
    }

    #[test]
    fn two_encodings_are_refused_and_unknown_ones_are_tritons_to_refuse() {
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_ENCODING, "br".parse().unwrap());
        assert!(BodyLimits::new(&headers, None, &most()).is_ok());

        headers.append(CONTENT_ENCODING, "gzip".parse().unwrap());
        let refusal = BodyLimits::new(&headers, None, &most()).err();
        assert_eq!(501, refusal.unwrap().http.as_u16());
    }
}
