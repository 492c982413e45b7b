//! One worker thread: a runtime of its own with everything a request needs, shared with nobody.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::mpsc::sync_channel;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stagegate_table::counters::ThreadTotals;
use stagegate_table::{Reader, Table, ThreadCounters};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use crate::budget::Budget;
use crate::connection::{self, Control};
use crate::contained::keep_running;
use crate::deadline::Deadlines;
use crate::events::Teller;
use crate::headers::Timeouts;
use crate::limits::Limits;
use crate::pool::Pool;
use crate::rest::{self, Rest};
use crate::runners::Runners;
use crate::shadow::{self, Shadows};
use crate::shared::{Admitted, Load, Shared};
use crate::token::{Draws, Tokens};
use crate::webhooks;

/// How often connections are looked over for being idle or for too many resets.
const LOOK: Duration = Duration::from_secs(1);

/// What the acceptor and the handle tell a worker.
pub(crate) enum Command {
    /// Serve this connection.
    Accept(std::net::TcpStream, Admitted),
    /// Serve this connection, on which REST is spoken.
    AcceptRest(std::net::TcpStream, Admitted),
    /// Take no further requests, finish what is there, and close by this time.
    Drain(Instant),
    /// Keep these bounds from now on.
    Limit(Limits),
    /// The backend of this name is spoken to in another way from now on: connect to it anew.
    Reconnect(Arc<str>),
    /// End the thread.
    Stop,
}

/// The acceptor's and the handle's end of a worker.
pub(crate) struct WorkerHandle {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) load: Arc<Load>,
    pub(crate) thread: JoinHandle<()>,
}

/// The state of one worker thread. Everything in it is borrowed only between two awaits.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) load: Arc<Load>,
    pub(crate) pool: Pool,
    pub(crate) runners: Runners,
    pub(crate) rest: Rest,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) budget: Rc<Budget>,
    /// The same for notices of registries, which are to take nothing from requests.
    pub(crate) notices: Rc<Budget>,
    pub(crate) draws: Draws,
    pub(crate) tokens: Tokens,
    pub(crate) timeouts: Timeouts,
    pub(crate) teller: Teller,
    pub(crate) totals: Arc<ThreadTotals>,
    pub(crate) shadows: Shadows,
    pub(crate) me: Weak<Self>,
    reader: RefCell<Reader>,
    counters: RefCell<ThreadCounters>,
    connections: RefCell<Vec<Weak<Control>>>,
    limits: Cell<Limits>,
}

impl Worker {
    fn new(shared: &Arc<Shared>, load: Arc<Load>) -> Rc<Self> {
        let limits = Limits::of(&shared.settings);
        let counters = shared.published.thread_counters();
        let totals = Arc::clone(counters.totals());
        let teller = Teller::new(&shared.events, &totals);
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            shared: Arc::clone(shared),
            load,
            pool: Pool::new(
                shared.settings.upstream_connections,
                Arc::clone(&shared.tls),
                teller.clone(),
            ),
            teller,
            totals,
            runners: Runners::default(),
            shadows: Shadows::new(&shared.settings),
            rest: Rest::new(Arc::clone(&shared.tls)),
            deadlines: Rc::new(Deadlines::new()),
            budget: Budget::new(
                &shared.buffered,
                shared.settings.threads,
                limits.max_buffered,
            ),
            notices: Budget::new(
                &shared.webhooks.buffered,
                shared.settings.threads,
                webhooks::MOST_BYTES,
            ),
            draws: Draws::new(),
            tokens: Tokens::new(),
            timeouts: Timeouts::new(limits.default_deadline),
            reader: RefCell::new(shared.published.reader()),
            counters: RefCell::new(counters),
            connections: RefCell::default(),
            limits: Cell::new(limits),
        })
    }

    /// Today's bounds.
    pub(crate) fn limits(&self) -> Limits {
        self.limits.get()
    }

    fn limit(&self, limits: Limits) {
        self.limits.set(limits);
        self.timeouts.follow(limits.default_deadline);
        self.budget.follow(limits.max_buffered);
    }

    /// Look at today's table.
    pub(crate) fn with_table<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        let mut reader = self.reader.borrow_mut();
        let table = reader.table();
        self.pool.follow(table);
        look(table)
    }

    /// Look at today's table and count.
    pub(crate) fn with_counters<T>(
        &self,
        look: impl FnOnce(&Table, &mut ThreadCounters) -> T,
    ) -> T {
        self.with_table(|table| look(table, &mut self.counters.borrow_mut()))
    }

    /// Count a connection for as long as the value lives.
    pub(crate) fn count_connection(&self) -> CountedConnection {
        self.totals.connection_opened();
        CountedConnection(Arc::clone(&self.totals))
    }

    /// Keep a connection in sight for drain and housekeeping.
    pub(crate) fn register(&self, control: &Rc<Control>) {
        self.connections.borrow_mut().push(Rc::downgrade(control));
    }

    fn each_connection(&self, mut act: impl FnMut(&Control)) {
        self.connections
            .borrow_mut()
            .retain(|weak| weak.upgrade().map(|control| act(&control)).is_some());
    }
}

/// A connection that is counted as open.
pub(crate) struct CountedConnection(Arc<ThreadTotals>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

/// Start worker number `index`.
pub(crate) fn start(index: usize, shared: &Arc<Shared>) -> io::Result<WorkerHandle> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let load = Arc::new(Load::default());
    let (shared, load_of_thread) = (Arc::clone(shared), Arc::clone(&load));
    // A local runtime belongs to the thread that builds it, so that thread tells whether it could.
    let (tell, built) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("stagegate-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = tell.send(Ok(()));
                    runtime.block_on(run(Worker::new(&shared, load_of_thread), inbox));
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
    built.recv().map_err(io::Error::other)??;
    Ok(WorkerHandle {
        commands,
        load,
        thread,
    })
}

async fn run(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let deadlines = Rc::clone(&worker.deadlines);
    keep_running(move || {
        let deadlines = Rc::clone(&deadlines);
        async move { deadlines.drive().await }
    });
    let kept = Rc::clone(&worker);
    keep_running(move || keep_house(Rc::clone(&kept)));
    let copying = Rc::clone(&worker);
    keep_running(move || shadow::drive(Rc::clone(&copying)));
    let looking = Rc::clone(&worker);
    tokio::task::spawn_local(async move { looking.pool.look_after().await });
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Accept(tcp, admitted) => {
                tokio::task::spawn_local(connection::serve(Rc::clone(&worker), tcp, admitted));
            }
            Command::AcceptRest(tcp, admitted) => {
                tokio::task::spawn_local(rest::serve(Rc::clone(&worker), tcp, admitted));
            }
            Command::Drain(until) => {
                worker.each_connection(Control::finish);
                worker.rest.finish();
                tokio::task::spawn_local(close_at(Rc::clone(&worker), until));
            }
            Command::Limit(limits) => worker.limit(limits),
            Command::Reconnect(backend) => {
                worker.pool.reconnect(&backend);
                worker.rest.pool.reconnect(&backend);
            }
            Command::Stop => return,
        }
    }
}

async fn keep_house(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let (now, limits) = (Instant::now(), worker.limits());
        worker.each_connection(|control| control.look_over(now, &limits));
        worker.shared.sequences.sweep(now);
        worker.rest.look_over(now, &limits);
    }
}

async fn close_at(worker: Rc<Worker>, until: Instant) {
    tokio::time::sleep_until(until.into()).await;
    worker.each_connection(Control::close);
    worker.rest.close();
}
