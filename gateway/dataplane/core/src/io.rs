//! The TCP stream as h2 sees it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::header_watch::HeaderWatch;

/// Most that is read and thrown away when a connection ends.
const LEFT_UNREAD: usize = 64 << 10;

/// A TCP stream that says "no vectored writes" while h2 sets its connection up and "yes" afterwards.
///
/// h2 looks once, at the start, to decide how much it copies together into one buffer (1,024 bytes
/// instead of 256 without vectored writes), and again at each write. Small frames are best copied,
/// large ones best written together with their heads.
#[derive(Debug)]
pub(crate) struct Io {
    tcp: TcpStream,
    started: bool,
    watch: Option<HeaderWatch>,
}

impl Io {
    /// Wrap a connected stream; Nagle's algorithm is switched off.
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp,
            started: false,
            watch: None,
        })
    }

    /// Show all that is read to `watch`, too.
    pub(crate) fn watched_by(mut self, watch: HeaderWatch) -> Self {
        self.watch = Some(watch);
        self
    }
}

impl Drop for Io {
    /// What was received and not read would make the kernel end the connection with a reset, and the peer
    /// might lose the last that was said to it.
    fn drop(&mut self) {
        let mut scratch = [0; 4 << 10];
        for _ in 0..LEFT_UNREAD / scratch.len() {
            match rustix::net::recv(&self.tcp, &mut scratch[..], RecvFlags::DONTWAIT) {
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
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if let Some(watch) = &mut self.watch {
            watch.feed(&buf.filled()[before..]);
        }
        outcome
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.started = true;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.started
    }
}
