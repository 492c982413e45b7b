//! Ids for backends: one a name for as long as the name is published, never given to another.

use std::collections::HashMap;
use std::sync::Arc;

use crate::spec::BackendSpec;
use crate::table::Backend;
use crate::TableError;

/// The backends of one table, by name.
pub(crate) type ByName = HashMap<Box<str>, Arc<Backend>>;

/// The backends after a change. Ids not seen before are taken from `next`.
pub(crate) fn change(
    now: &ByName,
    put: Vec<BackendSpec>,
    drop: &[String],
    next: &mut u32,
) -> Result<ByName, TableError> {
    let mut after = now.clone();
    for name in drop {
        if after.remove(name.as_str()).is_none() {
            return Err(TableError(format!(
                "backend {name:?} cannot be dropped: there is none"
            )));
        }
    }
    let mut seen = std::collections::HashSet::new();
    for spec in put {
        if spec.name.is_empty() {
            return Err(TableError("a backend has no name".to_owned()));
        }
        if spec.address.is_empty() {
            return Err(TableError(format!(
                "backend {:?} has no address",
                spec.name
            )));
        }
        if !seen.insert(spec.name.clone()) {
            return Err(TableError(format!(
                "backend {:?} is given twice",
                spec.name
            )));
        }
        if drop.contains(&spec.name) {
            return Err(TableError(format!(
                "backend {:?} is both put and dropped",
                spec.name
            )));
        }
        let id = now.get(spec.name.as_str()).map_or_else(
            || {
                *next += 1;
                *next
            },
            |backend| backend.id,
        );
        let name: Box<str> = spec.name.into();
        let backend = Backend {
            id,
            name: name.clone(),
            address: spec.address.into(),
            http: spec.http.into(),
        };
        after.insert(name, Arc::new(backend));
    }
    Ok(after)
}

/// For the table: sorted by id.
pub(crate) fn by_id(backends: &ByName) -> Arc<[Arc<Backend>]> {
    let mut list: Vec<_> = backends.values().cloned().collect();
    list.sort_unstable_by_key(|backend| backend.id);
    list.into()
}
