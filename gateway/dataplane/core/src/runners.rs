//! Tasks that answer calls, one call after the other: making a task costs more than waking one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::client::Client;
use crate::connection::OpenStream;
use crate::contained::{contained, contained_future};
use crate::dispatch;
use crate::status::Status;
use crate::worker::Worker;

/// Idle tasks that are kept; more calls than this at once make tasks that end with their call.
const IDLE: usize = 512;

/// A call and its place among the connection's streams.
pub(crate) type Call = (OpenStream, Box<Client>);

/// The idle tasks of one thread. The one that was used last is used next.
#[derive(Default)]
pub(crate) struct Runners(RefCell<Vec<Rc<Runner>>>);

/// What a task and those who give it work share.
#[derive(Default)]
struct Runner {
    call: RefCell<Option<Call>>,
    waker: RefCell<Option<Waker>>,
}

/// Answer a call in a task of its own.
pub(crate) fn start(worker: &Rc<Worker>, call: Call) {
    let idle = worker.runners.0.borrow_mut().pop();
    if let Some(runner) = idle {
        runner.call.replace(Some(call));
        if let Some(waker) = &*runner.waker.borrow() {
            waker.wake_by_ref();
        }
        return;
    }
    let runner = Rc::new(Runner {
        call: RefCell::new(Some(call)),
        ..Runner::default()
    });
    tokio::task::spawn_local(run(Rc::clone(worker), runner));
}

async fn run(worker: Rc<Worker>, runner: Rc<Runner>) {
    while let Some((open, mut client)) = poll_fn(|cx| runner.poll_call(cx)).await {
        answer(&worker, &open, &mut client).await;
        drop(client);
        drop(open);
        let mut idle = worker.runners.0.borrow_mut();
        if idle.len() >= IDLE {
            return;
        }
        idle.push(Rc::clone(&runner));
    }
}

/// Answer a call; one that panics is answered, too, and costs no other.
async fn answer(worker: &Worker, open: &OpenStream, client: &mut Client) {
    let handled = contained_future(dispatch::handle(worker, open, client)).await;
    if handled.is_err() {
        let status =
            Status::internal("the gateway made a mistake with this request; its log says which");
        // Fails where the panic happened inside h2: then the connection ends.
        let _ = contained(|| client.finish(&status));
    }
}

impl Runner {
    fn poll_call(&self, cx: &mut Context<'_>) -> Poll<Option<Call>> {
        let call = self.call.take();
        if call.is_some() {
            return Poll::Ready(call);
        }
        self.waker
            .borrow_mut()
            .get_or_insert_with(|| cx.waker().clone());
        Poll::Pending
    }
}
