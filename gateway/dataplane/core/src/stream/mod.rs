//! `ModelStreamInfer`: every message is routed, and each backend that is needed gets one stream.
//!
//! One task serves a client's stream. [`inbound`] takes the client's messages to the legs, [`outbound`]
//! the answers back; neither waits for the other. A message whose model is being loaded waits in
//! [`lanes`], and holds up no other model's; beside those each direction holds at most one message. What
//! has no answer yet is [`kept`]: a backend that provably did not begin with it is not the last that is asked.

mod inbound;
mod kept;
mod lanes;
mod leg;
mod outbound;
mod timing;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::pin::{pin, Pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use http::uri::PathAndQuery;
use http::HeaderMap;
use stagegate_table::Series;

use crate::client::{Client, Failure};
use crate::headers;
use crate::routed::{Count, Routed};
use crate::unary::own_deadline;
use crate::worker::Worker;

use kept::Returned;
use leg::Leg;
use outbound::Outbound;

/// Answers made here that wait for the client, before its next message is taken.
const LOCAL: usize = 16;

/// What both directions of one client's stream share. Borrowed only between two awaits.
struct Session<'w> {
    worker: &'w Worker,
    /// The client's own headers, which tell how its messages are compressed.
    headers: HeaderMap,
    /// Those that backends get.
    forwarded: HeaderMap,
    path: PathAndQuery,
    deadline: Option<Instant>,
    /// Whether errors of one message end the stream, as the client asked for.
    strict: bool,
    legs: RefCell<Vec<Rc<Leg>>>,
    local: RefCell<VecDeque<Bytes>>,
    /// What is to be sent once more.
    returned: RefCell<VecDeque<Returned>>,
    /// Whether the answers' side did something that the messages' side must look at.
    stirred: Cell<bool>,
    /// What the first message was routed to, for the metadata of the answer.
    first: RefCell<Option<Routed>>,
    count: RefCell<Option<Count>>,
    counted: Cell<bool>,
    /// Whether the client has sent its last message, and every backend has what it is to have.
    ended: Cell<bool>,
}

/// Answer one `ModelStreamInfer`.
pub(crate) async fn infer(worker: &Worker, client: &mut Client) -> Result<(), Failure> {
    client
        .deadline
        .set(own_deadline(&client.headers, client.started)?);
    let body = client.message.take_body()?;
    let session = Session::new(worker, client);
    let outcome = run(&session, client, body).await;
    if let Some(count) = &mut *session.count.borrow_mut() {
        match &outcome {
            Ok(code) => count.end(*code, Instant::now()),
            Err(Failure::Status(status)) => count.end(status.code, Instant::now()),
            Err(Failure::Gone) => {}
        }
    }
    outcome.map(|_| ())
}

/// Run both directions until the stream has its status; gives its code.
async fn run(session: &Session<'_>, client: &mut Client, body: RecvStream) -> Result<u8, Failure> {
    let mut inbound = pin!(inbound::take_messages(session, body, client.started));
    let mut outbound = Outbound::default();
    poll_fn(|cx| {
        loop {
            poll_inbound(session, inbound.as_mut(), cx)?;
            let was_full = session.local_is_full();
            if let Poll::Ready(outcome) = outbound.poll(session, client, cx) {
                return Poll::Ready(outcome);
            }
            let has_room = was_full && !session.local_is_full();
            if !session.stirred.take() && !has_room {
                break;
            }
        }
        client.poll_stop(cx).map(Err)
    })
    .await
}

fn poll_inbound(
    session: &Session<'_>,
    inbound: Pin<&mut impl Future<Output = Result<(), Failure>>>,
    cx: &mut Context<'_>,
) -> Result<(), Failure> {
    if !session.ended.get() {
        if let Poll::Ready(outcome) = inbound.poll(cx) {
            session.ended.set(true);
            return outcome;
        }
    }
    Ok(())
}

impl<'w> Session<'w> {
    fn new(worker: &'w Worker, client: &mut Client) -> Self {
        let headers = std::mem::take(&mut client.headers);
        let mut forwarded = headers.clone();
        headers::for_backend(&mut forwarded);
        // Every message goes on uncompressed.
        forwarded.remove(headers::GRPC_ENCODING);
        let strict = headers
            .get("triton_grpc_error")
            .is_some_and(|value| value == "true");
        Self {
            worker,
            headers,
            forwarded,
            path: client.path.clone(),
            deadline: client.deadline.at(),
            strict,
            legs: RefCell::default(),
            local: RefCell::default(),
            returned: RefCell::default(),
            stirred: Cell::new(false),
            first: RefCell::default(),
            count: RefCell::default(),
            counted: Cell::new(false),
            ended: Cell::new(false),
        }
    }

    /// The first message of the stream tells what it counts as, and whose metadata the client gets.
    fn count_stream(&self, routed: &Routed, series: &Arc<Series>, started: Instant) {
        self.count.replace(Some(Count::start(series, started)));
        self.first.replace(Some(routed.clone()));
    }

    fn local_is_full(&self) -> bool {
        self.local.borrow().len() >= LOCAL
    }
}
