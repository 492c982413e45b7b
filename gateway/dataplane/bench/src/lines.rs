//! The line protocol with the program that runs a measurement: one JSON object a line on stdout,
//! one command a line on stdin. The end of stdin ends the process, so nothing outlives its runner.

use std::io::{self, BufRead, Write};
use std::thread;

use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};

/// Prints one line and flushes it: the reader waits for it.
pub fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Lines of stdin, read by a thread of their own; the channel closes at the end of stdin.
#[must_use]
pub fn commands() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
