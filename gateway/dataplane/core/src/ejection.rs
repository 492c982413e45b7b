//! What answers say about the backends that gave them, and what comes of it.

use std::sync::Arc;
use std::time::Instant;

use stagegate_table::health::{Ejection, Fault};

use crate::probe;
use crate::routed::Routed;
use crate::status::{Code, Status};
use crate::worker::Worker;

/// What one answer, or its absence, says about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// It answered as it should.
    Good,
    /// It answered with an error that is the caller's, or the model's own.
    Refused,
    /// It did something wrong, in words.
    Fault(Fault, &'a str),
}

/// What an error's code and text say about the backend that answered with it.
pub(crate) fn judge(code: u8, text: &str) -> Option<Fault> {
    // Triton's texts for a model that is not there, or not yet, or not any more.
    let is_gone = text.contains("Request for unknown model");
    match code {
        code if code == Code::Unavailable as u8 && is_gone => Some(Fault::Gone),
        code if code == Code::Unavailable as u8 => Some(Fault::Failed),
        code if code == Code::NotFound as u8 && is_gone => Some(Fault::Gone),
        code if code == Code::Internal as u8 && has_broken_stub(text) => Some(Fault::Failed),
        _ => None,
    }
}

/// The same of an error in an answer of a stream, which has a text and no code.
pub(crate) fn judge_text(text: &str) -> Option<Fault> {
    judge(Code::NotFound as u8, text).or_else(|| judge(Code::Internal as u8, text))
}

/// Whether an error is that of a Python backend whose process is gone.
fn has_broken_stub(text: &str) -> bool {
    text.contains("Stub process") && text.contains("not healthy")
}

impl Worker {
    /// Tell what came of a request to a backend for a version.
    pub(crate) fn report(&self, routed: &Routed, backend: u32, outcome: Outcome<'_>) {
        let health = &routed.version.cell.health;
        match outcome {
            Outcome::Good | Outcome::Refused if health.is_well() => {}
            Outcome::Refused => health.answered(backend),
            Outcome::Good => {
                if health.succeeded(backend, Instant::now()) {
                    self.tell_recovered(routed, backend);
                }
            }
            Outcome::Fault(fault, reason) => self.note_fault(routed, backend, fault, reason),
        }
    }

    fn note_fault(&self, routed: &Routed, backend: u32, fault: Fault, reason: &str) {
        let now = Instant::now();
        let version = &routed.version;
        let jitter = f64::from(self.draws.below(1 << 16)) / f64::from(1 << 16);
        let ejection =
            version
                .cell
                .health
                .failed(backend, (fault, reason), &version.backends, now, jitter);
        if let Some(Ejection { begins: true, .. }) = ejection {
            self.begin_ejection(routed, backend, reason);
        }
    }

    fn begin_ejection(&self, routed: &Routed, backend: u32, reason: &str) {
        let (model, version) = (&routed.model, &routed.version);
        self.with_counters(|table, counters| {
            if let Some(backend) = table.backend(backend) {
                counters.note_ejected(model, version, backend);
                let names = (&*model.name, &*version.id, &*backend.name);
                self.teller.ejected(names, reason);
            }
        });
        self.fit_gate(routed);
        probe::start(self, routed.clone(), backend);
    }

    fn tell_recovered(&self, routed: &Routed, backend: u32) {
        self.with_table(|table| {
            if let Some(backend) = table.backend(backend) {
                let names = (&*routed.model.name, &*routed.version.id, &*backend.name);
                self.teller.recovered(names);
            }
        });
        self.fit_gate(routed);
        // Those that wait for any backend of the version look again.
        routed.version.cell.wake();
    }

    /// A version has more or fewer backends to be asked.
    fn fit_gate(&self, routed: &Routed) {
        self.with_table(|table| {
            let (model, version) = (&routed.model.name, &routed.version.id);
            // The request may be older than the table.
            if let Some((_, version)) = table.version(model.as_bytes(), version) {
                version.fit_gate();
            }
        });
    }

    /// The answer where every backend of a version is passed over: what, since when, and why.
    pub(crate) fn all_ejected(&self, routed: &Routed, ids: &[u32]) -> Status {
        let now = Instant::now();
        let health = &routed.version.cell.health;
        let ejected = ids
            .iter()
            .filter_map(|id| Some((*id, health.ejected(*id)?)));
        let Some((id, first)) = ejected.min_by_key(|(_, ejected)| ejected.until) else {
            return Status::unavailable(format!("no backend serves {}", routed.what()));
        };
        let name = self.with_table(|table| table.backend(id).map(Arc::clone));
        let name = name.as_ref().map_or("?", |backend| &*backend.name);
        let since = now.saturating_duration_since(first.since).as_secs_f64();
        let wait = first.until.saturating_duration_since(now).as_millis();
        let text = format!(
            "every backend of {} is passed over because it failed; '{name}' since {since:.1} s: {}",
            routed.what(),
            first.reason
        );
        Status::unavailable(text).push_back(u32::try_from(wait).unwrap_or(u32::MAX).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backends_own_failures_are_faults() {
        let unknown = "Request for unknown model: 'm.1.abc' has no available versions";
        let stub =
            "Failed to process the request(s) for model instance 'm_0_0', message: Stub process \
                    'm_0_0' is not healthy.";
        for (code, text, fault) in [
            (14, "the queue is full", Some(Fault::Failed)),
            (14, unknown, Some(Fault::Gone)),
            (5, unknown, Some(Fault::Gone)),
            (5, "no such customer", None),
            (13, stub, Some(Fault::Failed)),
            (13, "ValueError: negative", None),
            (3, "expected 2 inputs", None),
            (4, "Deadline Exceeded", None),
            (8, "busy", None),
        ] {
            assert_eq!(fault, judge(code, text), "{code} {text}");
        }
    }
}
