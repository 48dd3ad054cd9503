//! Sums of one series of many servers, read and decoded by a thread of its own ahead of whoever uses them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::super::blocks::BlockError;
use super::super::hours::Month;
use super::super::rollup::month::{Cell, MonthFile};
use super::super::rollup::rolled::Rolled;
use crate::model::ServerId;

/// Hours that are handed over at once: some dozen days, about a megabyte.
const HOURS_AT_ONCE: usize = 1536;
/// Such lots that wait. When full the thread waits, and so does whoever finds none.
const LOTS_MAX: usize = 3;

/// What is read.
pub(super) struct Wanted<'a> {
    pub(super) dir: &'a Path,
    /// Months that have a file, oldest first.
    pub(super) months: Vec<Month>,
    pub(super) metric: i64,
    pub(super) servers: &'a BTreeSet<ServerId>,
    /// Ranges of servers that are read at once.
    pub(super) ranges: Vec<(ServerId, ServerId)>,
    pub(super) hours: &'a Range<i64>,
}

/// Hours in the order in which they lie there. Its memory is used again.
#[derive(Default)]
struct Lot {
    hours: Vec<(Cell, Rolled)>,
    /// So many of `hours` are of this lot.
    n: usize,
    damaged: Vec<(Cell, BlockError)>,
    failed: Option<(Month, BlockError)>,
}

/// What is handed over.
pub(super) enum Read<'a> {
    /// An hour, which may be taken.
    Hour(Cell, &'a mut Rolled),
    /// The day of a server is damaged.
    Damaged(Cell, BlockError),
    /// A month cannot be read.
    Failed(Month, BlockError),
}

/// Shows `see` what is read, until it says false after a lot.
pub(super) fn read(
    wanted: &Wanted<'_>,
    see: &mut dyn FnMut(Read<'_>) -> rusqlite::Result<()>,
    goes_on: &dyn Fn() -> bool,
) -> rusqlite::Result<()> {
    std::thread::scope(|scope| {
        let (to_use, lots) = sync_channel::<Lot>(LOTS_MAX);
        // As many as there can be: nobody waits to give one back.
        let (give_back, used) = sync_channel::<Lot>(LOTS_MAX + 2);
        scope.spawn(move || Ahead { wanted, to_use, used, lot: Lot::default() }.run());
        // Ends with the thread's last lot; the thread ends when `lots` is dropped.
        for mut lot in lots {
            for (cell, rolled) in &mut lot.hours[..lot.n] {
                see(Read::Hour(*cell, rolled))?;
            }
            for (cell, error) in lot.damaged.drain(..) {
                see(Read::Damaged(cell, error))?;
            }
            if let Some((month, error)) = lot.failed.take() {
                see(Read::Failed(month, error))?;
            }
            if !goes_on() {
                break;
            }
            lot.n = 0;
            give_back.try_send(lot).ok();
        }
        Ok(())
    })
}

/// The thread.
struct Ahead<'a> {
    wanted: &'a Wanted<'a>,
    to_use: SyncSender<Lot>,
    used: Receiver<Lot>,
    lot: Lot,
}

impl Ahead<'_> {
    fn run(mut self) {
        for month in &self.wanted.months {
            let read = MonthFile::open(self.wanted.dir, *month);
            let read = read.and_then(|file| file.map_or(Ok(true), |file| self.month(&file)));
            match read {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.lot.failed = Some((*month, error));
                    if !self.send() {
                        return;
                    }
                }
            }
        }
        self.send();
    }

    /// Whether somebody waits for more.
    fn month(&mut self, file: &MonthFile) -> Result<bool, BlockError> {
        let (wanted, mut goes_on) = (self.wanted, true);
        for range in &wanted.ranges {
            file.of_servers(wanted.metric, *range, wanted.hours, &mut |cell, found| {
                if wanted.servers.contains(&cell.server) {
                    match found {
                        Ok(rolled) => self.lot.push(cell, rolled),
                        Err(error) => self.lot.damaged.push((cell, error)),
                    }
                }
                if self.lot.n >= HOURS_AT_ONCE {
                    goes_on = self.send();
                }
                goes_on
            })?;
            if !goes_on {
                break;
            }
        }
        Ok(goes_on)
    }

    /// Hands the lot over; false: nobody wants it.
    fn send(&mut self) -> bool {
        let next = self.used.try_recv().unwrap_or_default();
        self.to_use.send(std::mem::replace(&mut self.lot, next)).is_ok()
    }
}

impl Lot {
    fn push(&mut self, cell: Cell, rolled: &mut Rolled) {
        match self.hours.get_mut(self.n) {
            Some(room) => {
                room.0 = cell;
                std::mem::swap(&mut room.1, rolled);
            }
            None => self.hours.push((cell, std::mem::take(rolled))),
        }
        self.n += 1;
    }
}
