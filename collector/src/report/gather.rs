//! Reads the store for reports: the only part of them that does.

pub mod capacity;
pub mod noise;
pub mod outage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::ask::Ask;
use crate::model::ServerId;
use crate::store::history::History;
use crate::store::{ReadResult, fleet, read};

/// The servers that a report is about.
pub type Members = BTreeMap<ServerId, Member>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// The servers that were asked for; none of them: there is no such server.
pub fn members(history: &History<'_>, ask: &Ask) -> ReadResult<Members> {
    let mut found = Members::new();
    for (id, name) in read::server_names(history.conn())? {
        if ask.server.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let labels = fleet::labels(history.conn(), id)?;
        if ask.labels.iter().all(|(k, v)| labels.get(k) == Some(v)) {
            found.insert(id, Member { name, labels });
        }
    }
    Ok(found)
}
