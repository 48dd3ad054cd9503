//! The part of history that is not sealed: stored batches as they came.

use rusqlite::params;
use wire::UnixMillis;
use wire::v1::BatchBody;

use super::History;
use crate::ingest::convert;
use crate::model::ServerId;

/// Furthest a server's clock may be ahead for what it sends to be believed, and some more, ms.
const CLOCK_LEAD_MS: i64 = 10 * 60_000;

/// A stored batch, opened.
pub(super) struct HotBatch {
    pub(super) id: i64,
    pub(super) server: ServerId,
    pub(super) body: BatchBody,
}

impl History<'_> {
    /// Shows `see` every batch of one server, or of all, with events in `from..to` on the server's clock, in
    /// order of commit; of a batch that cannot be read only a note is made. Ends early, with a cut, when
    /// the time is over.
    ///
    /// Cost: of batches that came before `from` only a few are looked at: they are in order of arrival, and
    /// what came before an event is over cannot hold it, but for the lead a server's clock may have. Batches
    /// of other servers are skipped without reading their bodies.
    pub(super) fn hot(
        &self,
        only: Option<ServerId>,
        (from, to): (UnixMillis, UnixMillis),
        see: &mut dyn FnMut(HotBatch),
    ) -> rusqlite::Result<()> {
        let came = UnixMillis(from.0.saturating_sub(CLOCK_LEAD_MS));
        let first = super::super::read::first_after(self.conn, came)?;
        let mut query = self.conn.prepare_cached(
            "SELECT id, server_id, codec, body FROM hot
             WHERE id >= ?1 AND t_max >= ?2 AND t_min < ?3 AND (?4 IS NULL OR server_id = ?4)
             ORDER BY id",
        )?;
        // A batch's range is in milliseconds, its counts in seconds: a second's slack on both sides.
        let (from, to) = (from.0.saturating_sub(1000), to.0.saturating_add(1000));
        let mut rows = query.query(params![first, from, to, only.map(|server| server.0)])?;
        while let Some(row) = rows.next()? {
            if !self.goes_on() {
                return Ok(());
            }
            let (id, server) = (row.get(0)?, ServerId(row.get(1)?));
            let body = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
            match convert::unpack(row.get(2)?, body) {
                Ok(body) => see(HotBatch { id, server, body }),
                Err(_) => self.note_unreadable(),
            }
        }
        Ok(())
    }
}
