//! The part of history that is not sealed: stored batches as they came.

use std::collections::HashMap;

use rusqlite::{Rows, params};
use wire::UnixMillis;
use wire::v1::BatchBody;

use super::super::guard::{self, Numbers};
use super::super::hot::Head;
use super::super::read;
use super::History;
use crate::ingest::opener;
use crate::model::ServerId;

/// Furthest a server's clock may be ahead for what it sends to be believed, and some more, ms.
const CLOCK_LEAD_MS: i64 = 10 * 60_000;

/// A stored batch, opened.
pub(super) struct HotBatch {
    pub(super) id: i64,
    pub(super) server: ServerId,
    /// When it came, and what time it says that it spans.
    pub(super) head: Head,
    pub(super) body: BatchBody,
}

impl History<'_> {
    /// Shows `see` every batch of one server with events in `from..to` on its clock, in order of commit; of
    /// a batch that cannot be read only a note is made. Ends early, with a cut, when the time is over.
    ///
    /// Cost: a look-up for each of its batches that is kept.
    pub(super) fn hot_of(
        &self,
        server: ServerId,
        span: (UnixMillis, UnixMillis),
        see: &mut dyn FnMut(HotBatch),
    ) -> rusqlite::Result<()> {
        let (from, to) = with_slack(span);
        self.note_known_damaged();
        let ids = match self.index.as_ref().and_then(|index| index.ids(server)) {
            Some(ids) => ids,
            None => self.listed(server)?,
        };
        let rows = rows_where("server_id = ?3 AND t_max >= ?1 AND t_min < ?2", "id = ?4");
        let mut query = self.conn.prepare_cached(&rows)?;
        for id in ids {
            self.see_all(query.query(params![from, to, server.0, id])?, see)?;
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }

    /// Batches of a server in this snapshot, in order of commit, where no list in memory tells: some were
    /// deleted since. All heads are looked at for it, once a read.
    fn listed(&self, server: ServerId) -> rusqlite::Result<Vec<i64>> {
        if self.state.borrow().listed.is_none() {
            let heads = format!("SELECT {} FROM hot ORDER BY id", guard::COLUMNS);
            let mut query = self.conn.prepare_cached(&heads)?;
            let mut rows = query.query([])?;
            let mut listed: HashMap<ServerId, Vec<i64>> = HashMap::new();
            while let Some(row) = rows.next()? {
                if !self.goes_on() {
                    return Ok(Vec::new());
                }
                match Numbers::read(row) {
                    Some(Numbers { head, .. }) => {
                        listed.entry(head.server).or_default().push(head.id);
                    }
                    None => self.note_damaged(row.get(0)?, None),
                }
            }
            self.state.borrow_mut().listed = Some(listed);
        }
        let state = self.state.borrow();
        Ok(state.listed.as_ref().and_then(|of| of.get(&server)).cloned().unwrap_or_default())
    }

    /// The same of all servers, whose clocks are off by at most `clock_off_ms`; so also other batches.
    ///
    /// Cost: of batches that came before `from` only a few are looked at: they are in order of arrival, and
    /// what came before an event is over cannot hold it, but for the lead a server's clock may have.
    pub(super) fn hot_of_all(
        &self,
        span: (UnixMillis, UnixMillis),
        clock_off_ms: u64,
        see: &mut dyn FnMut(HotBatch),
    ) -> rusqlite::Result<()> {
        let (from, to) = with_slack(span);
        let came = from.saturating_sub_unsigned(clock_off_ms).saturating_sub(CLOCK_LEAD_MS);
        let first = read::first_after(self.conn, UnixMillis(came))?;
        self.note_known_damaged();
        let rows = rows_where("t_max >= ?2 AND t_min < ?3", "id >= ?1");
        let mut query = self.conn.prepare_cached(&rows)?;
        let (from, to) =
            (from.saturating_sub_unsigned(clock_off_ms), to.saturating_add_unsigned(clock_off_ms));
        self.see_all(query.query(params![first, from, to])?, see)
    }

    fn see_all(&self, mut rows: Rows<'_>, see: &mut dyn FnMut(HotBatch)) -> rusqlite::Result<()> {
        while let Some(row) = rows.next()? {
            if !self.goes_on() {
                return Ok(());
            }
            let Some(Numbers { head, codec, .. }) = Numbers::read(row) else {
                self.note_damaged(row.get(0)?, None);
                continue;
            };
            if !row.get::<_, bool>(guard::N_COLUMNS + 1)? {
                continue;
            }
            let (id, server, body) = (head.id, head.server, read::body(row)?);
            match opener::unpack(codec, body) {
                Ok(body) => see(HotBatch { id, server, head, body }),
                Err(_) => self.note_unreadable(id, server, codec),
            }
        }
        Ok(())
    }
}

/// Rows of `hot` at these ids: their numbers, to be checked before they are believed, and of those with
/// events that are wanted the body, and a 1 behind it.
fn rows_where(are_wanted: &str, ids: &str) -> String {
    let columns = guard::COLUMNS;
    format!(
        "SELECT {columns}, iif({are_wanted}, body, NULL), {are_wanted} FROM hot WHERE {ids} ORDER BY id"
    )
}

/// A batch's range is in milliseconds, its counts in seconds: a second's slack on both sides.
fn with_slack((from, to): (UnixMillis, UnixMillis)) -> (i64, i64) {
    (from.0.saturating_sub(1000), to.0.saturating_add(1000))
}
