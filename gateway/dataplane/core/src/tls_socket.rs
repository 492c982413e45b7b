//! The TCP stream below TLS, read in larger steps than rustls asks for.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one read takes at most. rustls asks for 4 KiB at a time, which would be a system call for each
/// quarter of a record.
const STEP: usize = 64 << 10;

thread_local! {
    /// One for each thread, so that an idle connection has none.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; STEP].into());
}

/// A TCP stream with what was read ahead of rustls.
#[derive(Debug)]
pub(crate) struct TlsSocket {
    tcp: TcpStream,
    ahead: Vec<u8>,
    taken: usize,
}

impl TlsSocket {
    /// Wrap a connected stream; Nagle's algorithm is switched off.
    pub(crate) fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp,
            ahead: Vec::new(),
            taken: 0,
        })
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn take_ahead(&mut self, buf: &mut ReadBuf<'_>) {
        let part = buf.remaining().min(self.ahead.len() - self.taken);
        buf.put_slice(&self.ahead[self.taken..self.taken + part]);
        self.taken += part;
        if self.taken == self.ahead.len() {
            self.ahead = Vec::new();
            self.taken = 0;
        }
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            self.take_ahead(buf);
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut wide = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut wide))?;
            let filled = wide.filled();
            let part = filled.len().min(buf.remaining());
            buf.put_slice(&filled[..part]);
            if part < filled.len() {
                self.ahead = filled[part..].to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
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
        true
    }
}
