//! When the answers to the requests of one model came on one stream.

use std::collections::VecDeque;
use std::time::Instant;

use stagegate_table::counters::Streams;
use stagegate_wire::stream::StreamAnswer;

use crate::routed::micros;

/// Requests that may be open at once; beyond it the oldest is forgotten.
const REMEMBERED: usize = 256;

/// Requests that wait for answers, oldest first.
#[derive(Debug)]
pub(super) struct Timing {
    open: VecDeque<Open>,
    /// When the last answer came.
    last: Instant,
}

#[derive(Debug)]
struct Open {
    id: Box<[u8]>,
    asked: Instant,
    answered: bool,
}

impl Timing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            open: VecDeque::new(),
            last: now,
        }
    }

    /// A request of that id is on its way.
    pub(super) fn asked(&mut self, id: &[u8], now: Instant) {
        // Some never say which answer is their last; the next request of the same id tells it.
        self.open.retain(|open| !(open.answered && *open.id == *id));
        if self.open.len() >= REMEMBERED {
            self.open.pop_front();
        }
        self.open.push_back(Open {
            id: id.into(),
            asked: now,
            answered: false,
        });
    }

    /// A request of that id goes elsewhere: it has no answer here.
    pub(super) fn forget(&mut self, id: &[u8]) {
        let at = self.open.iter().position(|open| *open.id == *id);
        at.and_then(|at| self.open.remove(at));
    }

    /// Whether a request of that id is open.
    pub(super) fn waits_for(&self, id: &[u8]) -> bool {
        self.open.iter().any(|open| *open.id == *id)
    }

    /// An answer came. One that is only the word that it was the last is neither a first answer nor a
    /// further one.
    pub(super) fn answered(&mut self, seen: &StreamAnswer<'_>, streams: &Streams, now: Instant) {
        let at = self.open.iter().position(|open| *open.id == *seen.id);
        let is_first = at.is_some_and(|at| !self.open[at].answered);
        if seen.has_outputs || !seen.error.is_empty() || seen.last.is_none() {
            match at {
                Some(at) if is_first => {
                    streams.first.record(micros(self.open[at].asked, now));
                    self.open[at].answered = true;
                }
                _ => streams.inter.record(micros(self.last, now)),
            }
            self.last = now;
        }
        // Errors are last whatever they say; so is an answer that knows nothing of being last.
        let ended = seen.last.unwrap_or(true) || !seen.error.is_empty();
        if let (true, Some(at)) = (ended, at) {
            self.open.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn answer(id: &'static [u8], last: Option<bool>) -> StreamAnswer<'static> {
        StreamAnswer {
            id,
            last,
            has_outputs: true,
            ..StreamAnswer::default()
        }
    }

    /// Milliseconds of first answers and of those between, from requests and answers at given times.
    struct Clock {
        start: Instant,
        timing: Timing,
        streams: Streams,
    }

    impl Clock {
        fn new() -> Self {
            let start = Instant::now();
            Self {
                start,
                timing: Timing::new(start),
                streams: Streams::default(),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn asked(&mut self, millis: u64, id: &[u8]) {
            self.timing.asked(id, self.at(millis));
        }

        fn answered(&mut self, millis: u64, answer: &StreamAnswer<'_>) {
            self.timing.answered(answer, &self.streams, self.at(millis));
        }

        /// Count and sum, in milliseconds, of first answers and of those between.
        fn told(&self) -> [(u64, u64); 2] {
            [&self.streams.first, &self.streams.inter].map(|histogram| {
                let read = histogram.read();
                (read.count(), read.sum_micros / 1000)
            })
        }
    }

    #[test]
    fn requests_sent_together_each_have_a_first_answer() {
        let mut clock = Clock::new();
        for (at, id) in [(0, b"a"), (10, b"b")] {
            clock.asked(at, id);
        }
        clock.answered(30, &answer(b"b", Some(true)));
        clock.answered(40, &answer(b"a", Some(true)));

        assert_eq!([(2, 20 + 40), (0, 0)], clock.told());
    }

    #[test]
    fn answers_after_the_first_are_between() {
        let mut clock = Clock::new();
        clock.asked(0, b"");
        for at in [10, 15, 25] {
            clock.answered(at, &answer(b"", Some(false)));
        }

        assert_eq!([(1, 10), (2, 15)], clock.told());
    }

    #[test]
    fn a_new_request_of_the_same_id_has_its_own_first_answer() {
        let mut clock = Clock::new();
        for start in [0, 100] {
            clock.asked(start, b"");
            clock.answered(start + 10, &answer(b"", Some(false)));
            clock.answered(start + 11, &answer(b"", Some(false)));
        }

        assert_eq!([(2, 20), (2, 2)], clock.told());
    }

    #[test]
    fn the_bare_word_that_it_was_the_last_is_no_answer() {
        let mut clock = Clock::new();
        let bare = StreamAnswer {
            has_outputs: false,
            ..answer(b"", Some(true))
        };
        clock.asked(0, b"");
        clock.answered(10, &bare);

        assert_eq!([(0, 0), (0, 0)], clock.told());
        assert!(clock.timing.open.is_empty());
    }

    #[test]
    fn an_error_is_a_last_answer() {
        let mut clock = Clock::new();
        clock.asked(0, b"");
        clock.answered(
            10,
            &StreamAnswer {
                error: b"no",
                ..answer(b"", Some(false))
            },
        );

        assert_eq!([(1, 10), (0, 0)], clock.told());
        assert!(clock.timing.open.is_empty());
    }

    #[test]
    fn requests_without_an_answer_are_forgotten_in_time() {
        let mut clock = Clock::new();
        for number in 0..1000_u32 {
            clock.asked(0, &number.to_be_bytes());
        }

        assert_eq!(REMEMBERED, clock.timing.open.len());
    }
}
