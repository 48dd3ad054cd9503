//! Day files that are damaged as a whole, and what the file in their place says it lacks.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::body::{Kind, crc};
use super::{APPLICATION_ID, BlockError, DayFile, FORMAT, LOST, Place, READER_PRAGMAS};
use crate::model::ServerId;
use crate::store::hours::Day;

impl DayFile {
    /// Notes which parts of hours are lost: they were in the file that this one takes the place of. Reads of
    /// them fail, and later parts follow them.
    pub(crate) fn lose(&mut self, hours: &[(i64, u32)]) -> Result<(), BlockError> {
        let tx = self.conn.transaction()?;
        for (t0, parts) in hours {
            for part in 0..*parts {
                let place = Place { t0: *t0, server: ServerId(0), part };
                tx.prepare_cached(
                    "INSERT OR IGNORE INTO hour(t0, part, n_servers, crc, servers)
                     VALUES(?1, ?2, ?3, ?4, x'')",
                )?
                .execute(params![
                    t0,
                    part,
                    LOST,
                    crc(Kind::Hour, place, 0, &[LOST], &[])
                ])?;
            }
        }
        Ok(tx.commit()?)
    }

    /// Whether the file of a day is damaged as a whole: no database any more, not one that says whose it is,
    /// or one whose list of hours cannot be read. One of another day or of a later release is not.
    pub(crate) fn is_ruined(dir: &Path, day: Day) -> Result<bool, BlockError> {
        let path = dir.join(day.file());
        if !path.exists() {
            return Ok(false);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let looked = Connection::open_with_flags(&path, flags).map_err(BlockError::from);
        let looked = looked.and_then(|conn| {
            conn.execute_batch(READER_PRAGMAS)?;
            let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            if pragma("application_id")? != APPLICATION_ID {
                return Ok(true);
            }
            if pragma("user_version")? != FORMAT {
                return Ok(false);
            }
            let said: Option<String> =
                conn.query_row("SELECT day FROM file", [], |row| row.get(0)).optional()?;
            let Some(said) = said else { return Ok(true) };
            conn.query_row("SELECT sum(length(servers)) FROM hour", [], |_| Ok(()))?;
            Ok(said.len() != 8 || said.bytes().any(|b| !b.is_ascii_digit()))
        });
        match looked {
            Err(BlockError::Bad(_)) => Ok(true),
            looked => looked,
        }
    }
}
