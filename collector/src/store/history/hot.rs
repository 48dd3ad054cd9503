//! The part of history that is not sealed: stored batches as they came.

use rusqlite::{Rows, params};
use wire::UnixMillis;
use wire::v1::BatchBody;

use super::super::hot::{self, Head};
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
        let Some(ids) = self.index.as_ref().and_then(|index| index.ids(server)) else {
            // Nothing tells where its batches are: all heads are looked at.
            let query = "SELECT id, server_id, at, t_min, t_max, codec, body FROM hot
                         WHERE t_max >= ?1 AND t_min < ?2 AND server_id = ?3 ORDER BY id";
            let mut query = self.conn.prepare_cached(query)?;
            return self.see_all(query.query(params![from, to, server.0])?, see);
        };
        let mut query = self.conn.prepare_cached(
            "SELECT id, server_id, at, t_min, t_max, codec, body FROM hot
             WHERE t_max >= ?1 AND t_min < ?2 AND server_id = ?3 AND id = ?4",
        )?;
        for id in ids {
            self.see_all(query.query(params![from, to, server.0, id])?, see)?;
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
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
        let mut query = self.conn.prepare_cached(
            "SELECT id, server_id, at, t_min, t_max, codec, body FROM hot
             WHERE id >= ?1 AND t_max >= ?2 AND t_min < ?3 ORDER BY id",
        )?;
        let (from, to) =
            (from.saturating_sub_unsigned(clock_off_ms), to.saturating_add_unsigned(clock_off_ms));
        self.see_all(query.query(params![first, from, to])?, see)
    }

    fn see_all(&self, mut rows: Rows<'_>, see: &mut dyn FnMut(HotBatch)) -> rusqlite::Result<()> {
        while let Some(row) = rows.next()? {
            if !self.goes_on() {
                return Ok(());
            }
            let head = hot::head(row)?;
            let (id, server, codec) = (head.id, head.server, row.get(5)?);
            let body = row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?;
            match opener::unpack(codec, body) {
                Ok(body) => see(HotBatch { id, server, head, body }),
                Err(_) => self.note_unreadable(id, server, codec),
            }
        }
        Ok(())
    }
}

/// A batch's range is in milliseconds, its counts in seconds: a second's slack on both sides.
fn with_slack((from, to): (UnixMillis, UnixMillis)) -> (i64, i64) {
    (from.0.saturating_sub(1000), to.0.saturating_add(1000))
}
