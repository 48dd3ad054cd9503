//! Rows of packed hours into the tables of a day file.

use rusqlite::{Transaction, params};

use super::body::{Encoded, EncodedColumn};
use super::{BlockError, Place, Summary};

/// Columns of servers, in the order of their keys.
pub(super) fn put_columns(tx: &Transaction<'_>, hours: &[Encoded]) -> Result<(), BlockError> {
    let mut insert = tx.prepare_cached(
        "INSERT OR REPLACE INTO block(t0, metric, server_id, part, n, codec, vmin, vmax, vsum, crc, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let mut order: Vec<(i64, i64, Place, usize, usize)> = Vec::new();
    for (hour_ix, hour) in hours.iter().enumerate() {
        let key = |(ix, column): (usize, &EncodedColumn)| {
            (hour.place.t0, column.metric, hour.place, hour_ix, ix)
        };
        order.extend(hour.columns.iter().enumerate().map(key));
    }
    order.sort_unstable();
    for (t0, metric, place, hour_ix, ix) in order {
        let column = &hours[hour_ix].columns[ix];
        let Summary { n, min, max, sum } = column.summary;
        insert.execute(params![
            t0,
            metric,
            place.server.0,
            place.part,
            n.cast_signed(),
            column.codec,
            min,
            max,
            sum,
            column.crc,
            column.body
        ])?;
    }
    Ok(())
}

/// What there is of a server beside columns.
pub(super) fn put_rest(tx: &Transaction<'_>, hour: &Encoded) -> Result<(), BlockError> {
    let Place { t0, server, part } = hour.place;
    let (metrics_crc, metrics, batches_crc, batches) = &hour.presence;
    let has = hour.has();
    tx.prepare_cached(
        "INSERT OR REPLACE INTO presence(t0, server_id, part, has, crc, metrics, batches_crc, batches)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![t0, server.0, part, has, metrics_crc, metrics, batches_crc, batches])?;
    for (table, row) in [("site_block", &hour.counts), ("event_block", &hour.events)] {
        let Some((n, crc, body)) = row else { continue };
        tx.prepare_cached(&format!(
            "INSERT OR REPLACE INTO {table}(t0, server_id, part, n, crc, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        ))?
        .execute(params![t0, server.0, part, n, crc, body])?;
    }
    Ok(())
}
