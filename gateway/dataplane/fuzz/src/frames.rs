//! A running data plane that takes the bytes of one client connection after the other.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use stagegate_core::{Dataplane, Settings};

use crate::messages;
use crate::neighbour::{self, Neighbour};
use crate::random::Random;

/// A connection whose client has ended it must end within this.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Connections between two questions of the neighbour.
const ROUNDS: usize = 25;
/// Memory that may be kept of what was thrown at it.
const KEPT: usize = 64 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Count panics of all threads instead of printing them.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        PANICS.fetch_add(1, SeqCst);
    }));
}

/// Panics so far.
#[must_use]
pub fn panics() -> usize {
    PANICS.load(SeqCst)
}

/// What the last panic said.
#[must_use]
pub fn last_panic() -> String {
    LAST_PANIC
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// A data plane in front of a backend, and a neighbour that asks it now and then.
pub struct FramePath {
    dataplane: Dataplane,
    neighbour: Neighbour,
    rounds: usize,
    memory: Option<usize>,
}

impl FramePath {
    /// Start all of it.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start() -> Result<Self, String> {
        let backend = neighbour::backend().map_err(|error| error.to_string())?;
        let published =
            messages::published(&backend.to_string()).map_err(|error| error.to_string())?;
        let settings = Settings {
            max_message: 1 << 20,
            handshake_timeout_ms: 2_000,
            default_deadline_ms: 3_000,
            ..Settings::default()
        };
        let dataplane = Dataplane::start(settings, published).map_err(|error| error.to_string())?;
        dataplane.set_ready(true);
        let mut neighbour = Neighbour::new(dataplane.port())?;
        neighbour.ask()?;
        Ok(Self {
            dataplane,
            neighbour,
            rounds: 0,
            memory: None,
        })
    }

    /// One connection with these bytes, in pieces; then the client says no more and waits for the end.
    ///
    /// # Errors
    /// A thread panicked, the connection did not end, or the neighbour saw an error.
    pub fn throw(&mut self, input: &[u8], random: &mut Random) -> Result<(), String> {
        let before = panics();
        self.connection(input, random)?;
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS) || panics() > before {
            let asked = self.neighbour.ask();
            asked.map_err(|error| format!("the neighbour was harmed: {error}"))?;
        }
        if panics() > before {
            return Err(format!("a thread panicked: {}", last_panic()));
        }
        Ok(())
    }

    /// Whether memory stayed where it was when this was asked first.
    ///
    /// # Errors
    /// It grew.
    pub fn look_at_memory(&mut self) -> Result<(), String> {
        let Some(now) = resident() else {
            return Ok(());
        };
        let first = *self.memory.get_or_insert(now);
        if now > first + KEPT {
            return Err(format!("memory grew from {first} to {now} bytes"));
        }
        Ok(())
    }

    fn connection(&self, input: &[u8], random: &mut Random) -> Result<(), String> {
        let port = self.dataplane.port();
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .map_err(|error| format!("cannot connect any more: {error}"))?;
        let _ = tcp.set_nodelay(true);
        let _ = tcp.set_write_timeout(Some(ENDS_WITHIN));
        let mut rest = input;
        while !rest.is_empty() {
            let size = if random.one_in(3) {
                1 + random.below(rest.len())
            } else {
                rest.len()
            };
            let (piece, after) = rest.split_at(size);
            // It may end the connection in the middle.
            if tcp.write_all(piece).is_err() {
                break;
            }
            rest = after;
        }
        let _ = tcp.shutdown(Shutdown::Write);
        let end = Instant::now() + ENDS_WITHIN;
        let mut answer = [0; 16 << 10];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let _ = tcp.set_read_timeout(Some(left.max(Duration::from_millis(1))));
            match tcp.read(&mut answer) {
                Ok(count) if count > 0 && !left.is_zero() => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    let seconds = ENDS_WITHIN.as_secs();
                    return Err(format!("the connection did not end within {seconds} s"));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => return Err("the connection goes on and on".to_owned()),
            }
        }
    }
}

/// Resident memory of this process in bytes, where the system tells.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
}
