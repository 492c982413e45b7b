//! The connection as h2 sees it: TCP, plain or under TLS.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{ready, Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::frame_watch::FrameWatch;
use crate::joined;
use crate::repeated_end::RepeatedEnds;
use crate::tls_socket::TlsSocket;

/// Most that is read and thrown away when a connection ends.
const LEFT_UNREAD: usize = 64 << 10;
/// Frames of at least this are gathered, so that several go with one system call.
const GATHER: usize = 4 << 10;
/// Bytes that are gathered at most. Above 64 KiB the kernel gains little from one call more.
const GATHERED: usize = 256 << 10;
/// Pieces that go with one system call.
const PIECES: usize = 64;

/// A stream that says "no vectored writes" while h2 sets its connection up and "yes" afterwards, and
/// that gathers large frames.
///
/// h2 looks once, at the start, to decide how much it copies together into one buffer (1,024 bytes
/// instead of 256 without vectored writes), and again at each write. Small frames are best copied,
/// large ones best written together with their heads; under TLS they so share their records.
///
/// h2 writes and flushes each large frame by itself. A megabyte that goes on in frames of 16 KiB, which
/// is all that gRPC servers take, would cost 65 system calls; copying it costs less. Whoever polls the
/// connection asks its [`Gathered`] when h2 has nothing more to write.
#[derive(Debug)]
pub(crate) struct Io {
    stream: Stream,
    started: bool,
    /// The watch ended the reading, and woke the task that is to know.
    ended: bool,
    watch: Option<FrameWatch>,
    /// Boxed: it is large, and only backends have one.
    repeated_ends: Option<Box<RepeatedEnds>>,
    out: VecDeque<Bytes>,
    /// Bytes in `out`.
    held: usize,
    /// Where heads of frames are copied to.
    heads: BytesMut,
    gathered: Gathered,
    /// Nothing is gathered.
    at_once: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    /// Boxed: its state is many times as large, and most connections are plain.
    Tls(Box<TlsStream<TlsSocket>>),
}

/// What the one who polls a connection knows of its gathered frames.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gathered(Rc<Cell<Held>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Held {
    /// All is written.
    #[default]
    Nothing,
    /// There is something to write.
    Some,
    /// The next flush is to write it.
    Flush,
    /// The peer takes no more; the task wakes when it does.
    Blocked,
}

impl Gathered {
    /// Whether to poll the connection once more, so that it writes what was gathered.
    pub(crate) fn again(&self) -> bool {
        let again = self.0.get() == Held::Some;
        if again {
            self.0.set(Held::Flush);
        }
        again
    }
}

impl Io {
    /// Wrap a connected stream; Nagle's algorithm is switched off.
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self::over(Stream::Plain(tcp)))
    }

    /// A stream whose TLS handshake is done.
    pub(crate) fn tls(stream: TlsStream<TlsSocket>) -> Self {
        Self::over(Stream::Tls(Box::new(stream)))
    }

    fn over(stream: Stream) -> Self {
        Self {
            stream,
            started: false,
            ended: false,
            watch: None,
            repeated_ends: None,
            out: VecDeque::new(),
            held: 0,
            heads: BytesMut::new(),
            gathered: Gathered::default(),
            at_once: false,
        }
    }

    /// For writers that put together themselves what goes with one call.
    pub(crate) fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Show all that is read to `watch`, too, and tell it when nothing can be written.
    pub(crate) fn watched_by(mut self, watch: FrameWatch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The peer is a backend: streams that it ends more than once end once.
    pub(crate) fn of_backend(mut self) -> Self {
        self.repeated_ends = Some(Box::new(RepeatedEnds::new()));
        self
    }

    /// To be asked each time that the connection was polled and is pending.
    pub(crate) fn gathered(&self) -> Gathered {
        self.gathered.clone()
    }

    /// Keep all of it.
    fn gather(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        let mut taken = 0;
        for buf in bufs {
            let piece = joined::owner_of(buf).unwrap_or_else(|| {
                self.heads.extend_from_slice(buf);
                self.heads.split().freeze()
            });
            self.out.push_back(piece);
            taken += buf.len();
        }
        self.held += taken;
        if self.gathered.0.get() == Held::Nothing {
            self.gathered.0.set(Held::Some);
        }
        taken
    }

    /// Write all that was gathered.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(piece);
            }
            let used = self.out.len().min(PIECES);
            let outcome = self.stream.poll_write_vectored(cx, &slices[..used]);
            self.note_written(outcome.is_ready());
            let Poll::Ready(count) = outcome else {
                self.gathered.0.set(Held::Blocked);
                return Poll::Pending;
            };
            match count? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written(count),
            }
        }
        self.gathered.0.set(Held::Nothing);
        Poll::Ready(Ok(()))
    }

    fn note_written(&self, written: bool) {
        let Some(watch) = &self.watch else { return };
        let since = &watch.seen.untaken_since;
        if written {
            since.set(None);
        } else if since.get().is_none() {
            since.set(Some(Instant::now()));
        }
    }

    fn written(&mut self, mut count: usize) {
        self.held -= count;
        while let Some(piece) = self.out.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.out.pop_front();
        }
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0.tcp(),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }
}

impl Drop for Io {
    /// What was received and not read would make the kernel end the connection with a reset, and the peer
    /// might lose the last that was said to it.
    fn drop(&mut self) {
        let mut scratch = [0; 4 << 10];
        for _ in 0..LEFT_UNREAD / scratch.len() {
            match rustix::net::recv(self.stream.tcp(), &mut scratch[..], RecvFlags::DONTWAIT) {
                Ok((_, received)) if received > 0 => {}
                _ => return,
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watch.as_ref().is_some_and(|w| w.seen.flooded.get()) {
            // Nothing more is read, so that the task that drives h2 gets to send its GOAWAY.
            if !std::mem::replace(&mut self.ended, true) {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let Self {
            stream,
            repeated_ends,
            ..
        } = &mut *self;
        if let Some(ends) = repeated_ends {
            return ends.poll_read(cx, buf, |cx, buf| stream.poll_read(cx, buf));
        }
        let before = buf.filled().len();
        let outcome = stream.poll_read(cx, buf);
        if let Some(watch) = &mut self.watch {
            watch.feed(&buf.filled()[before..]);
        }
        outcome
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.gathered.0.get(), Held::Flush | Held::Blocked) {
            ready!(self.poll_out(cx))?;
        }
        let Stream::Tls(tls) = &mut self.stream else {
            return Poll::Ready(Ok(()));
        };
        let outcome = Pin::new(tls).poll_flush(cx);
        self.note_written(outcome.is_ready());
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.started = true;
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.at_once || (self.out.is_empty() && len < GATHER) {
            if len >= joined::LARGE {
                joined::forget();
            }
            let outcome = self.stream.poll_write_vectored(cx, bufs);
            self.note_written(outcome.is_ready());
            return outcome;
        }
        if self.held >= GATHERED {
            ready!(self.poll_out(cx))?;
        }
        Poll::Ready(Ok(self.gather(bufs)))
    }

    fn is_write_vectored(&self) -> bool {
        self.started
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::joined::Joined;

    async fn pair() -> (Io, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (Io::new(near).unwrap(), listener.accept().await.unwrap().0)
    }

    /// What h2 does with a frame: its head and its body in one write, then a flush.
    async fn frame(io: &mut Io, head: &[u8], mut body: Joined) {
        let mut head = Bytes::copy_from_slice(head);
        poll_fn(|cx| loop {
            if !head.has_remaining() && !body.has_remaining() {
                return Pin::new(&mut *io).poll_flush(cx);
            }
            let mut slices = [IoSlice::new(&[]); 4];
            slices[0] = IoSlice::new(&head);
            let used = 1 + body.chunks_vectored(&mut slices[1..]);
            let mut count = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?;
            let part = count.min(head.len());
            head.advance(part);
            count -= part;
            body.advance(count);
        })
        .await
        .unwrap();
    }

    fn body(seed: u8, len: usize) -> Bytes {
        (0..len)
            .map(|at| (at as u8).wrapping_mul(seed))
            .collect::<Vec<_>>()
            .into()
    }

    #[tokio::test]
    async fn frames_of_all_sizes_arrive_in_their_order() {
        let (mut io, mut far) = pair().await;
        let mut sent = Vec::new();
        let reader = tokio::spawn(async move {
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            got
        });
        for (number, len) in [3, 16 << 10, 70, 5 << 10, 700 << 10, 0, 16 << 10, 9]
            .into_iter()
            .enumerate()
        {
            let body = body(number as u8 + 3, len);
            sent.extend_from_slice(b"head");
            sent.extend_from_slice(&body);
            frame(&mut io, b"head", body.into()).await;
        }
        assert!(io.gathered().again());
        io.shutdown().await.unwrap();

        assert_eq!(sent, reader.await.unwrap());
    }

    #[tokio::test]
    async fn large_frames_wait_to_be_asked_for_and_keep_their_owner() {
        let (mut io, mut far) = pair().await;
        let body = body(7, 16 << 10);

        frame(&mut io, b"head", body.clone().into()).await;
        let nothing = far.try_read(&mut [0; 9]).unwrap_err();
        let kept = io.out[1].as_ptr() == body.as_ptr();
        assert!(io.gathered().again());
        io.flush().await.unwrap();
        let mut got = vec![0; 4 + body.len()];
        far.read_exact(&mut got).await.unwrap();

        assert_eq!(io::ErrorKind::WouldBlock, nothing.kind());
        assert!(kept);
        assert!(!io.gathered().again());
    }

    #[tokio::test]
    async fn what_the_peer_does_not_take_is_asked_for_once() {
        let (mut io, far) = pair().await;
        let gathered = io.gathered();
        let mut blocked = false;
        for _ in 0..4_096 {
            let one = frame(&mut io, b"head", body(5, 16 << 10).into());
            let limit = std::time::Duration::from_millis(50);
            if tokio::time::timeout(limit, one).await.is_err() {
                blocked = true;
                break;
            }
        }

        assert!(blocked, "64 MiB fit into socket buffers");
        assert!(!gathered.again());
        drop(far);
    }
}
