//! The listening socket, and the thread that hands its connections to the workers.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::shared::{Admitted, Load, Shared};
use crate::worker::Command;

const BACKLOG: i32 = 4096;
/// Pause after an accept that failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a held acceptor looks whether it may begin.
const HELD: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Where the acceptor sends connections to.
pub(crate) type Target = (mpsc::UnboundedSender<Command>, Arc<Load>);

/// How a worker is told to serve a connection.
pub(crate) type Serve = fn(std::net::TcpStream, Admitted) -> Command;

/// The acceptor's thread and the way to end it.
pub(crate) struct Acceptor {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A port that cannot be listened on; inside of an [`io::Error`] of the same kind.
#[derive(Debug)]
pub struct Unbound {
    /// `host:port`.
    pub address: String,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for Unbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.error.to_string();
        let why = why.split(" (os error").next().unwrap_or_default();
        write!(f, "cannot listen on {}: {why}", self.address)
    }
}

impl std::error::Error for Unbound {}

/// Bind the port; it must not be taken. Errors hold an [`Unbound`].
pub(crate) fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    bind_any(host, port).map_err(|error| {
        let address = format!("{host}:{port}");
        io::Error::new(error.kind(), Unbound { address, error })
    })
}

/// The socket that another process handed over for that address, or one of its own. One that listens on
/// the same port of another address would be reached by others than the configuration says.
pub(crate) fn take_or_bind(
    inherited: &mut Vec<TcpListener>,
    host: &str,
    port: u16,
) -> io::Result<TcpListener> {
    let wanted: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_or_else(|_| Vec::new(), Iterator::collect);
    let is_there = |listener: &TcpListener| {
        let address = listener.local_addr();
        port != 0 && address.is_ok_and(|address| wanted.contains(&address))
    };
    match inherited.iter().position(is_there) {
        Some(at) => Ok(inherited.swap_remove(at)),
        None => bind(host, port),
    }
}

fn bind_any(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("{host} has no address"),
    );
    for address in (host, port).to_socket_addrs()? {
        match bind_address(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Without it a restart would have to wait for old connections; SO_REUSEPORT, which would let two
    // gateways share a port by mistake, is left off.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Acceptor {
    /// Start the thread.
    pub(crate) fn start(
        listener: TcpListener,
        serve: Serve,
        targets: Vec<Target>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = Arc::clone(&stop);
        let name = "stagegate-accept".to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || accept_until(&listener, serve, &stopped, &targets, &shared))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Close the listening socket. Idempotent.
    pub(crate) fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
            let _ = thread.join();
        }
    }
}

fn accept_until(
    listener: &TcpListener,
    serve: Serve,
    stop: &OwnedFd,
    targets: &[Target],
    shared: &Arc<Shared>,
) {
    if !wait_while_held(stop, shared) {
        return;
    }
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        // An error here is an interruption by a signal: look again.
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        loop {
            match listener.accept() {
                Ok((tcp, peer)) => hand_out(tcp, peer.ip(), serve, targets, shared),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => {
                    std::thread::sleep(PAUSE);
                    break;
                }
            }
        }
    }
}

/// Whether the acceptor is to begin at all. Meanwhile connections queue in the kernel.
fn wait_while_held(stop: &OwnedFd, shared: &Shared) -> bool {
    while shared.held.load(Relaxed) {
        let mut fds = [PollFd::new(stop, PollFlags::IN)];
        if poll(&mut fds, Some(&HELD)).is_ok_and(|ready| ready > 0) {
            return false;
        }
    }
    true
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

fn hand_out(
    tcp: std::net::TcpStream,
    peer: IpAddr,
    serve: Serve,
    targets: &[Target],
    shared: &Arc<Shared>,
) {
    let Some((commands, load)) = targets.iter().min_by_key(|(_, load)| load.weight()) else {
        return;
    };
    let Some(admitted) = shared.admit(load, peer) else {
        return;
    };
    if tcp.set_nonblocking(true).is_ok() {
        // Fails only while the worker is being stopped, and then the connection ends as it should.
        let _ = commands.send(serve(tcp, admitted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_over_where_it_listens_on_the_very_address() {
        let everywhere = bind("0.0.0.0", 0).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let mut inherited = vec![everywhere];

        let narrower = take_or_bind(&mut inherited, "127.0.0.1", port);
        assert_eq!(
            io::ErrorKind::AddrInUse,
            narrower.err().map(|error| error.kind()).unwrap()
        );
        assert_eq!(1, inherited.len());

        let same = take_or_bind(&mut inherited, "0.0.0.0", port).unwrap();
        assert_eq!(port, same.local_addr().unwrap().port());
        assert!(inherited.is_empty());
    }
}
