//! A panic is a mistake in here. It ends what it happened in, and nothing else.

use std::future::{poll_fn, Future};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;

/// What was done panicked. The panic hook has told where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Do something that may panic.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    // What is shared with others is borrowed for moments only, and given back while unwinding.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// Wait for something that may panic.
pub(crate) async fn contained_future<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|cx| match contained(|| future.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panicked) => Err(panicked).into(),
    })
    .await
}

/// Run a task that is to run for as long as its thread; it is begun anew where it panics.
pub(crate) fn keep_running<F: Future<Output = ()> + 'static>(begin: impl Fn() -> F + 'static) {
    tokio::task::spawn_local(async move { while contained_future(begin()).await.is_err() {} });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::task::{yield_now, LocalSet};

    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_does_not_go_on() {
        let late = contained_future(async {
            yield_now().await;
            panic!("on purpose");
        });

        assert_eq!(Err::<(), _>(Panicked), late.await);
        assert_eq!(Ok(1), contained_future(async { 1 }).await);
    }

    #[tokio::test]
    async fn a_task_that_panics_is_begun_anew() {
        let begun = Rc::new(Cell::new(0));
        let count = Rc::clone(&begun);
        let local = LocalSet::new();
        local
            .run_until(async {
                keep_running(move || {
                    let count = Rc::clone(&count);
                    async move {
                        count.set(count.get() + 1);
                        assert!(count.get() >= 3, "on purpose");
                    }
                });
                while begun.get() < 3 {
                    yield_now().await;
                }
            })
            .await;

        assert_eq!(3, begun.get());
    }
}
