//! The backends that one thread has to do with, and the choice between several that have a version.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use stagegate_table::{Backend, Table};

use crate::events::Teller;
use crate::tls::TlsState;
use crate::token::Draws;
use crate::upstream::Upstream;

/// The upstreams of one thread, made at their first use.
pub(crate) struct Pool {
    most: usize,
    tls: Arc<TlsState>,
    teller: Teller,
    /// By backend id: few and sorted by nothing, so they are searched from end to end.
    upstreams: RefCell<Vec<(u32, Rc<Upstream>)>>,
    followed: Cell<u64>,
}

impl Pool {
    /// `most` connections to each backend.
    pub(crate) fn new(most: usize, tls: Arc<TlsState>, teller: Teller) -> Self {
        Self {
            most,
            tls,
            teller,
            upstreams: RefCell::default(),
            followed: Cell::new(0),
        }
    }

    /// Give up what a new table no longer has, or has at another address.
    pub(crate) fn follow(&self, table: &Table) {
        if self.followed.replace(table.revision) == table.revision {
            return;
        }
        self.upstreams.borrow_mut().retain(|(id, upstream)| {
            let stays = table
                .backend(*id)
                .is_some_and(|backend| *backend.address == *upstream.address());
            if !stays {
                upstream.retire();
            }
            stays
        });
    }

    /// The upstream of a backend of the table that was followed last. `None` where its address is no
    /// `host:port`.
    pub(crate) fn get(&self, backend: &Backend) -> Option<Rc<Upstream>> {
        let mut upstreams = self.upstreams.borrow_mut();
        if let Some((_, upstream)) = upstreams.iter().find(|(id, _)| *id == backend.id) {
            return Some(Rc::clone(upstream));
        }
        let made = Upstream::new(
            &backend.name,
            &backend.address,
            self.most,
            &self.tls,
            self.teller.clone(),
        )?;
        upstreams.push((backend.id, Rc::clone(&made)));
        Some(made)
    }

    /// One of several backends: the less used of two that were drawn. Those that are down, or in
    /// `tried`, come last. `None` where all were tried.
    pub(crate) fn choose<'t>(
        &self,
        table: &'t Table,
        ids: &[u32],
        tried: &[u32],
        draws: &Draws,
    ) -> Option<(&'t Backend, Rc<Upstream>)> {
        if let ([id], []) = (ids, tried) {
            return self.at(table, *id);
        }
        let open: Vec<_> = ids
            .iter()
            .filter(|id| !tried.contains(id))
            .filter_map(|id| self.at(table, *id))
            .collect();
        let up: Vec<usize> = (0..open.len())
            .filter(|at| !open[*at].1.is_down())
            .collect();
        let from = if up.is_empty() {
            (0..open.len()).collect()
        } else {
            up
        };
        let at = less_used(&from, draws, |at| open[at].1.inflight())?;
        open.into_iter().nth(at)
    }

    fn at<'t>(&self, table: &'t Table, id: u32) -> Option<(&'t Backend, Rc<Upstream>)> {
        let backend = table.backend(id)?;
        Some((backend, self.get(backend)?))
    }
}

/// Of two different random places the one with less use.
fn less_used(from: &[usize], draws: &Draws, used: impl Fn(usize) -> usize) -> Option<usize> {
    let count = from.len() as u32;
    if count <= 1 {
        return from.first().copied();
    }
    let first = draws.below(count);
    let other = (first + 1 + draws.below(count - 1)) % count;
    let (first, other) = (from[first as usize], from[other as usize]);
    Some(if used(other) < used(first) {
        other
    } else {
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_the_less_used_is_chosen_always() {
        let draws = Draws::new();

        for _ in 0..100 {
            assert_eq!(
                Some(7),
                less_used(&[3, 7], &draws, |at| if at == 7 { 1 } else { 2 })
            );
        }
    }

    #[test]
    fn of_many_equal_ones_each_is_chosen_at_times() {
        let draws = Draws::new();
        let mut seen = [false; 5];

        for _ in 0..1000 {
            if let Some(at) = less_used(&[0, 1, 2, 3, 4], &draws, |_| 0) {
                seen[at] = true;
            }
        }

        assert_eq!([true; 5], seen);
    }

    #[test]
    fn of_none_there_is_none() {
        assert_eq!(None, less_used(&[], &Draws::new(), |_| 0));
    }
}
