//! The numbers of a row of `hot`, and the checksum that tells when one of them is another one; pure but for
//! reading a row.
//!
//! Format of `hot.codec` since migration 7: `0x40 << 40 | crc32c << 8 | codec`. The checksum is of the id, the
//! other columns but the body in the order of the table, and the codec; the body has its own, in its frame. Of
//! rows that an earlier release stored it is the codec alone, below 0x100: these are believed.

use rusqlite::Row;
use wire::UnixMillis;

use super::hot::Head;
use crate::model::ServerId;

/// Columns of [`Numbers`], in the order in which [`Numbers::read`] takes them.
pub(super) const COLUMNS: &str =
    "id, server_id, epoch, seq, at, t_min, t_max, complete_until, codec";
/// Number of these.
pub(super) const N_COLUMNS: usize = 9;

/// What stands above the checksum. Not zero, so that no shorter integer of the same bytes is a bare codec.
const MARK: i64 = 0x40;
/// Codec of a body that no release knows: what claims to be one beyond it is the same.
const CODEC_MAX: u32 = 0xff;

/// A row without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) head: Head,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) complete_until: UnixMillis,
    pub(super) codec: u32,
}

impl Numbers {
    /// Out of the first columns of a row; `None`: it is not what was stored.
    pub(super) fn read(row: &Row<'_>) -> Option<Self> {
        let mut numbers = [0; N_COLUMNS];
        for (ix, number) in numbers.iter_mut().enumerate() {
            *number = row.get(ix).ok()?;
        }
        let [id, server, epoch, seq, at, t_min, t_max, complete_until, kept] = numbers;
        let numbers = Self {
            head: Head {
                id,
                server: ServerId(server),
                at: UnixMillis(at),
                t_min: UnixMillis(t_min),
                t_max: UnixMillis(t_max),
            },
            epoch: epoch.cast_unsigned(),
            seq: seq.cast_unsigned(),
            complete_until: UnixMillis(complete_until),
            codec: kept as u32 & CODEC_MAX,
        };
        let is_bare = (0..=i64::from(CODEC_MAX)).contains(&kept);
        (is_bare || numbers.kept_codec() == kept).then_some(numbers)
    }

    /// What the row keeps as its codec.
    pub(super) fn kept_codec(&self) -> i64 {
        let Head { id, server, at, t_min, t_max } = self.head;
        let codec = i64::from(self.codec.min(CODEC_MAX));
        let (epoch, seq) = (self.epoch.cast_signed(), self.seq.cast_signed());
        let of = [id, server.0, epoch, seq, at.0, t_min.0, t_max.0, self.complete_until.0, codec];
        let crc =
            of.iter().fold(0, |crc, number| crc32c::crc32c_append(crc, &number.to_le_bytes()));
        MARK << 40 | i64::from(crc) << 8 | codec
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    const TABLE: &str =
        "CREATE TABLE hot(id, server_id, epoch, seq, at, t_min, t_max, complete_until, codec)";

    fn read(kept: [i64; N_COLUMNS]) -> Option<Numbers> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(TABLE).unwrap();
        let insert = "INSERT INTO hot VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        conn.execute(insert, kept).unwrap();
        let query = format!("SELECT {COLUMNS} FROM hot");
        conn.query_row(&query, [], |row| Ok(Numbers::read(row))).unwrap()
    }

    #[test]
    fn any_flipped_bit_of_a_row_is_found() {
        let at = 1_796_040_000_000;
        let plain = [7, 3, at - 900, 12, at, at - 10_000, at - 1, at, 1];
        let bare = read(plain).unwrap();
        assert_eq!((bare.codec, bare.head.id, bare.seq), (1, 7, 12), "of an earlier release");
        let mut kept = plain;
        kept[8] = bare.kept_codec();
        assert_eq!(read(kept), Some(bare));
        assert!(kept[8] < 1 << 47, "six bytes of SQLite");
        for (ix, bit) in (0..N_COLUMNS).flat_map(|ix| (0..64).map(move |bit| (ix, bit))) {
            let mut other = kept;
            other[ix] ^= 1 << bit;
            assert_eq!(read(other), None, "bit {bit} of number {ix}");
        }
        // What a flipped bit of its type in SQLite makes of it: fewer of its bytes.
        for bytes in 1..=4 {
            let mut other = kept;
            other[8] >>= 8 * (6 - bytes);
            assert_ne!(read(other).map(|numbers| numbers.codec), Some(1));
        }
    }

    #[test]
    fn a_row_that_holds_what_is_no_number_is_damaged() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!(
            "{TABLE}; INSERT INTO hot VALUES(1, 2, 3, 4, x'05', 6, 7, 8, 1)"
        ))
        .unwrap();
        let query = format!("SELECT {COLUMNS} FROM hot");
        let read = conn.query_row(&query, [], |row| Ok(Numbers::read(row))).unwrap();
        assert_eq!(read, None);
    }
}
