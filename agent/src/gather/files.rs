//! Every followed log with its parser: which there are, which have something new, reading them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use wire::UnixMillis;

use crate::batch::WINDOW_BYTES_MAX;
use crate::clock;
use crate::config::LogsConfig;
use crate::discover::{Discovery, LogKind, LogSource, Unreadable};
use crate::logs::checkpoint::{Checkpoint, FileKey, Position};
use crate::logs::file::{BUFFER_BYTES, CHUNK_BYTES};
use crate::logs::join::Judge;
use crate::logs::listing::Listings;
use crate::logs::sources;
use crate::logs::tail::{Look, Start, Vanished};
use crate::logs::watch::{Event, Watch};
use crate::probes::listeners::Listeners;
use crate::window::Windows;
use crate::window::clients::Clients;

use super::FileStatus;
use super::cells::Cells;
use super::configured::{directories, discovery_of, is_written_since, stamps_of};
use super::followed::Followed;
use super::looks::{self, REFRESH_GAP};

/// Time between looks at globs and configuration files after an event in a directory of configurations: an editor makes several.
const TOUCH_GAP: Duration = Duration::from_millis(400);
/// Longest time one pass reads before timers get their turn.
const PASS_MAX: Duration = Duration::from_millis(200);
/// Access lines read before the error logs are looked at and waiting requests are judged.
const ACCESS_BYTES_MAX: usize = 2 * CHUNK_BYTES;
/// Longest time error logs are read for the requests that wait; an error log that grows faster than
/// it is read has no end.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// A log without news for so long is watched again instead of read in every round.
const COOL_AFTER: Duration = Duration::from_millis(100);
/// Positions of logs that are not followed at present, kept for when they are again.
const ORPHANS_MAX: usize = 1000;

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassEnd {
    /// Every file was read to its end.
    AllRead,
    /// Time is up; there is more.
    TimeUp,
    /// The windows must be closed first; there may be more.
    WindowFull,
}

/// See the module.
pub(super) struct Files {
    discovery: Discovery,
    pub(super) followed: Vec<Followed>,
    pub(super) by_path: BTreeMap<PathBuf, usize>,
    /// What events name, by the number of the directory, links resolved too.
    pub(super) by_directory: Vec<Directory>,
    /// Positions of logs that are not followed, the newest at the end.
    pub(super) orphans: Vec<Position>,
    /// Places among `followed` of logs that were let go, and what had vanished of those.
    pub(super) free: Vec<usize>,
    pub(super) released: Vanished,
    first_start_at: UnixMillis,
    saved_at: UnixMillis,
    unreadable: Vec<Unreadable>,
    /// Configuration files and when they changed last.
    stamps: Vec<Option<(SystemTime, u64)>>,
    /// The agent's own config was read again, or another log can be read now.
    is_stale: bool,
    /// Configuration files were written while they were read: not urgent, some are all the time.
    is_torn: bool,
    /// Something happened in a directory of configurations.
    is_touched: bool,
    refreshed_at: Option<Instant>,
    discovered_at: Instant,
    refresh_gap: Duration,
    has_gateway_error: bool,
    look_wanted: bool,
    /// The access log whose turn it is.
    turn: usize,
    /// Logs that are read in every round, without a watch.
    hot: Vec<usize>,
    /// Logs that had something in several rounds without a pause.
    heated: Vec<usize>,
    buffer: Vec<u8>,
    cells: Cells,
    listeners: Listeners,
}

/// The followed logs of a directory.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) by_name: HashMap<OsString, usize>,
    pub(super) all: BTreeSet<usize>,
}

impl Files {
    /// Discovers and lists what there is; opens nothing yet.
    pub(super) fn new(config: &LogsConfig, checkpoint: &Checkpoint, is_first_start: bool) -> Self {
        let began = clock::now();
        let discovery = discovery_of(config);
        let mut files = Self {
            stamps: stamps_of(&discovery),
            is_stale: false,
            is_torn: is_written_since(&discovery, began),
            is_touched: false,
            discovery,
            followed: Vec::new(),
            by_path: BTreeMap::new(),
            by_directory: Vec::new(),
            orphans: checkpoint.positions.clone(),
            free: Vec::new(),
            released: Vanished::default(),
            first_start_at: checkpoint.first_start_at,
            saved_at: checkpoint.saved_at,
            unreadable: Vec::new(),
            refreshed_at: None,
            discovered_at: clock::instant(),
            refresh_gap: REFRESH_GAP,
            has_gateway_error: false,
            look_wanted: false,
            turn: 0,
            hot: Vec::new(),
            heated: Vec::new(),
            buffer: vec![0; BUFFER_BYTES],
            cells: Cells::default(),
            listeners: Listeners::new(&config.root),
        };
        let mut expansion = sources::expand(config, &files.discovery.logs);
        let left_out = files.follow(expansion.logs, clock::instant(), |born| {
            if is_first_start {
                Start::End
            } else {
                Start::by_birth(born, checkpoint.first_start_at)
            }
        });
        expansion.unreadable.extend(left_out);
        files.tell_unreadable(expansion.unreadable);
        files
    }

    pub(super) fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    pub(super) fn pools(&self) -> Vec<String> {
        self.discovery.pools.iter().map(|pool| pool.name.clone()).collect()
    }

    /// The next `refresh` expands and discovers, whatever changed or not.
    pub(super) fn discover_again(&mut self) {
        self.refreshed_at = None;
        self.is_stale = true;
    }

    /// Expands globs, and discovers again when a configuration file changed (then it is returned).
    pub(super) fn refresh(
        &mut self,
        config: &LogsConfig,
        now: Instant,
        at: UnixMillis,
    ) -> Option<&Discovery> {
        let is_urgent = self.is_stale && now >= self.discovered_at + REFRESH_GAP;
        if !is_urgent && self.refresh_due().is_some_and(|due| now < due) {
            return None;
        }
        let (began, worked) = (clock::instant(), clock::thread_cpu_time());
        self.refreshed_at = Some(now);
        self.is_touched = false;
        let stamps = stamps_of(&self.discovery);
        let is_changed = stamps != self.stamps || self.is_stale || self.is_torn;
        let mut discovering = Duration::ZERO;
        if is_changed {
            let (before, began) = (clock::thread_cpu_time(), clock::now());
            self.discovery = discovery_of(config);
            self.discovered_at = now;
            self.stamps = stamps_of(&self.discovery);
            self.is_stale = false;
            self.is_torn = is_written_since(&self.discovery, began);
            // It is rare: were it counted as a glob, the next change would be seen late.
            discovering = clock::thread_cpu_time().saturating_sub(before);
        }
        self.saved_at = at;
        let pools = self.discovery.pools.iter().map(|pool| pool.listen.as_str());
        let sites = self.discovery.sites.iter().filter_map(|site| site.pool.as_deref());
        self.listeners.remember(pools.chain(sites), now);
        let mut expansion = sources::expand(config, &self.discovery.logs);
        let first_start_at = self.first_start_at;
        let left_out = self.follow(expansion.logs, now, |born| {
            // What a glob did not match a moment ago is new, whatever the clock says.
            if is_changed { Start::by_birth(born, first_start_at) } else { Start::Beginning }
        });
        expansion.unreadable.extend(left_out);
        self.tell_unreadable(expansion.unreadable);
        let whole = clock::instant().saturating_duration_since(began);
        let expanding = clock::thread_cpu_time().saturating_sub(worked + discovering);
        self.refresh_gap = looks::refresh_gap(expanding, whole);
        is_changed.then_some(&self.discovery)
    }

    /// When configuration and globs are looked at again; `None` = at once.
    pub(super) fn refresh_due(&self) -> Option<Instant> {
        let gap = if self.is_touched { TOUCH_GAP.min(self.refresh_gap) } else { self.refresh_gap };
        self.refreshed_at.map(|last| last + gap)
    }

    /// When a touched configuration is to be looked at; `None` while none is.
    pub(super) fn touched_due(&self) -> Option<Instant> {
        if self.is_touched { self.refresh_due() } else { None }
    }

    /// True when another set of logs can be read than discovery knew: who counts may change.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Watches the directories of all configuration files.
    pub(super) fn watch_configs(&self, watch: &mut Watch) {
        for directory in directories(&self.discovery) {
            watch.add_config(&directory);
        }
    }

    /// Adds what is not followed yet and takes over changed sources. What is no longer listed is
    /// followed on until `release`. Returns what there is no room for; only logs that are open take
    /// room.
    fn follow(
        &mut self,
        logs: Vec<LogSource>,
        now: Instant,
        start: impl Fn(Option<SystemTime>) -> Start,
    ) -> Option<Unreadable> {
        let n_max = sources::logs_max();
        let mut n_open = self.followed.iter().filter(|followed| followed.takes_room()).count();
        let (mut first_left_out, mut n_left_out) = (None, 0);
        let mut orphans: BTreeMap<PathBuf, Vec<(usize, Position)>> = BTreeMap::new();
        for (age, orphan) in std::mem::take(&mut self.orphans).into_iter().enumerate() {
            orphans.entry(orphan.path.clone()).or_default().push((age, orphan));
        }
        for source in logs {
            if let Some(followed) = self.by_path.get(&source.path).map(|ix| &mut self.followed[*ix])
            {
                followed.named_at = now;
                if followed.source != source {
                    followed.renew(source);
                }
                continue;
            }
            if n_open >= n_max {
                n_left_out += 1;
                first_left_out.get_or_insert(source.path);
                continue;
            }
            n_open += 1;
            let own = orphans.remove(&source.path).unwrap_or_default();
            let own: Vec<Position> = own.into_iter().map(|(_, position)| position).collect();
            let born = fs::metadata(&source.path).and_then(|meta| meta.created()).ok();
            let start = if own.is_empty() { start(born) } else { Start::Beginning };
            let ix = self.free.pop().unwrap_or(self.followed.len());
            self.by_path.insert(source.path.clone(), ix);
            let new = Followed::new(source, own, start, self.saved_at, now);
            match self.followed.get_mut(ix) {
                Some(place) => *place = new,
                None => self.followed.push(new),
            }
        }
        let mut orphans: Vec<_> = orphans.into_values().flatten().collect();
        orphans.sort_unstable_by_key(|(age, _)| *age);
        let n_over = orphans.len().saturating_sub(ORPHANS_MAX);
        self.orphans = orphans.drain(n_over..).map(|(_, position)| position).collect();
        first_left_out.map(|first| sources::left_out(&first, n_left_out, n_max))
    }

    fn tell_unreadable(&mut self, mut unreadable: Vec<Unreadable>) {
        unreadable.extend(self.discovery.unreadable.iter().cloned());
        for new in unreadable.iter().filter(|new| !self.unreadable.contains(new)) {
            let (path, reason, fix) = (new.path.display(), &new.reason, &new.fix);
            tracing::warn!(%path, reason, fix, "cannot look for logs");
        }
        self.unreadable = unreadable;
    }

    /// Notes which file an event is about.
    pub(super) fn mark(&mut self, event: &Event<'_>) {
        let (directory, name) = match event {
            Event::Written(ix) => {
                self.followed[*ix].is_marked = true;
                return;
            }
            Event::Name { directory, name } => (directory, name),
            Event::Config => {
                self.is_touched = true;
                return;
            }
            Event::Unknown => {
                self.mark_all();
                self.look_wanted = true;
                return;
            }
        };
        let Some(directory) = self.by_directory.get(*directory) else { return };
        if let Some(ix) = directory.by_name.get(*name) {
            let followed = &mut self.followed[*ix];
            followed.is_marked = true;
            followed.wants_look = true;
        } else {
            // Perhaps a rotated file that is still written.
            for ix in &directory.all {
                let followed = &mut self.followed[*ix];
                followed.is_marked |= followed.tail.has_rotated();
            }
        }
    }

    pub(super) fn mark_all(&mut self) {
        self.followed.iter_mut().for_each(|followed| followed.is_marked = true);
    }

    /// True while a log is written all the time: it is read in every round, unasked.
    pub(super) fn is_hot(&self) -> bool {
        !self.hot.is_empty()
    }

    pub(super) fn has_marks(&self) -> bool {
        self.is_hot()
            || self.followed.iter().any(|followed| followed.is_marked || followed.wants_look)
    }

    /// True once after events were lost or unclear.
    pub(super) fn take_look_wanted(&mut self) -> bool {
        std::mem::take(&mut self.look_wanted)
    }

    /// Looks which file has which path: all of them, or those that an event named.
    pub(super) fn look(
        &mut self,
        is_full: bool,
        now: Instant,
        at: UnixMillis,
        judge: &mut Judge,
        watch: &mut Watch,
    ) {
        if !is_full && !self.followed.iter().any(|followed| followed.wants_look) {
            return;
        }
        let open = |(ix, followed): (usize, &Followed)| {
            followed.tail.keys_open().map(|key| (key, ix)).collect::<Vec<_>>()
        };
        let mut held: BTreeMap<FileKey, usize> =
            self.followed.iter().enumerate().flat_map(open).collect();
        let listings = &Listings::default();
        for ix in 0..self.followed.len() {
            let followed = &mut self.followed[ix];
            let wants_look = std::mem::take(&mut followed.wants_look);
            if followed.is_released || !is_full && !wants_look {
                continue;
            }
            followed.is_marked = true;
            let is_held = |key| held.get(&key).is_some_and(|holder| *holder != ix);
            let is_followed = |path: &Path| self.by_path.get(path).is_some_and(|its| *its != ix);
            let start = followed.start;
            let look =
                Look { start, now, at, is_held: &is_held, is_followed: &is_followed, listings };
            let found = followed.tail.look(look, &mut self.buffer);
            held.extend(followed.tail.keys_open().map(|key| (key, ix)));
            let source = followed.source_ix(judge);
            judge.set_readable(source, found.is_ok());
            let was_readable = followed.is_readable;
            match found {
                Ok(()) => followed.found(),
                Err(error) => followed.not_found(&error, now),
            }
            // Of a chain of servers the front-most log that can be read counts.
            let is_access = followed.source.kind == LogKind::Access;
            self.is_stale |= is_access && was_readable == Some(!followed.is_readable());
            self.watch_log(ix, watch);
        }
    }

    fn watch_log(&mut self, ix: usize, watch: &mut Watch) {
        let followed = &mut self.followed[ix];
        let key = followed.tail.key();
        if !followed.tail.has_rotated() && followed.watches.len() > 1 {
            let last = followed.watches.len() - 1;
            followed.watches.drain(..last).for_each(|old| watch.remove_file(old, ix));
        }
        if std::mem::replace(&mut followed.is_watched, true) && followed.watched == key {
            return;
        }
        followed.watched = key;
        if key.is_some() {
            followed.watch_file(ix, watch);
        }
        let path = followed.source.path.clone();
        let real = fs::canonicalize(&path).ok();
        // Of another one's log it hears what is written, not what becomes of its name.
        let real = real.filter(|real| self.by_path.get(real).is_none_or(|its| *its == ix));
        for path in [Some(path), real].into_iter().flatten() {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let directory =
                if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let number = watch.add(directory);
            if number >= self.by_directory.len() {
                self.by_directory.resize_with(number + 1, Directory::default);
            }
            self.by_directory[number].by_name.insert(name.to_owned(), ix);
            self.by_directory[number].all.insert(ix);
        }
    }

    /// Directories whose watch was lost are given again at the next look.
    pub(super) fn rewatch(&mut self) {
        self.followed.iter_mut().for_each(|followed| followed.is_watched = false);
    }

    /// Reads every marked file, a few chunks in turn, and folds the lines. The next pass goes on with
    /// the log after the last one, so that one that grows faster than it is read keeps no other
    /// waiting.
    ///
    /// Servers write the error line first. So after some access lines the error logs are read to
    /// their end, and only then the requests that wait for an explanation are judged. When this
    /// returns nothing waits in the judge.
    pub(super) fn read_pass(
        &mut self,
        judge: &mut Judge,
        windows: &mut Windows,
        began: Instant,
        at: UnixMillis,
    ) -> PassEnd {
        let mut now = began;
        for ix in &self.hot {
            self.followed[*ix].is_marked = true;
        }
        loop {
            let mut n_bytes = 0;
            for ix in (self.turn..self.followed.len()).chain(0..self.turn) {
                if self.followed[ix].source.kind != LogKind::Access {
                    continue;
                }
                while self.followed[ix].is_marked && n_bytes < ACCESS_BYTES_MAX {
                    n_bytes += self.read_chunk(ix, judge, windows, now, at);
                }
                if n_bytes >= ACCESS_BYTES_MAX {
                    self.turn = ix + 1;
                    break;
                }
            }
            let something_waits = judge.has_pending();
            let limit = if something_waits { WAIT_MAX } else { PASS_MAX };
            for ix in 0..self.followed.len() {
                let followed = &mut self.followed[ix];
                if followed.source.kind == LogKind::Access {
                    continue;
                }
                followed.is_marked |= something_waits;
                while self.followed[ix].is_marked {
                    self.read_chunk(ix, judge, windows, now, at);
                    if clock::instant().saturating_duration_since(began) > limit {
                        break; // it stays marked
                    }
                }
            }
            let mut has_error = false;
            let listeners = &mut self.listeners;
            let mut why_absent = |address: &str| listeners.why_absent(address, now);
            judge.settle(at, &mut why_absent, &mut |request| {
                has_error |= request.exemplar.is_some() && !request.own;
                windows.fold(request);
            });
            self.has_gateway_error |= has_error;
            if windows.n_bytes() >= WINDOW_BYTES_MAX {
                return PassEnd::WindowFull;
            }
            if !self.followed.iter().any(|followed| followed.is_marked) {
                return PassEnd::AllRead;
            }
            // Another time: an error log that was at its end may have more by now.
            now = clock::instant();
            if now.saturating_duration_since(began) > PASS_MAX {
                return PassEnd::TimeUp;
            }
        }
    }

    /// Reads and folds one chunk; unmarks the file at its end. Returns about the bytes read.
    fn read_chunk(
        &mut self,
        ix: usize,
        judge: &mut Judge,
        windows: &mut Windows,
        now: Instant,
        at: UnixMillis,
    ) -> usize {
        let followed = &mut self.followed[ix];
        followed.look_for_fields();
        match followed.tail.read(now, &mut self.buffer) {
            Ok(Some(chunk)) => {
                if followed.note_data(now) {
                    self.heated.push(ix);
                }
                let (buffer, cells) = (&self.buffer, &mut self.cells);
                self.has_gateway_error |= followed.fold(&chunk, buffer, judge, cells, windows, at);
                // Inside a line without end a chunk has no lines, and costs no less.
                if chunk.lines.is_empty() { CHUNK_BYTES } else { chunk.lines.len() }
            }
            Ok(None) => {
                followed.is_marked = false;
                0
            }
            Err(error) => {
                followed.is_marked = false;
                followed.not_found(&error, now);
                0
            }
        }
    }

    /// Takes the watches of logs that are written all the time, and gives back those of logs that
    /// were quiet for a while; call it after each round.
    pub(super) fn adapt(&mut self, now: Instant, watch: &mut Watch) {
        for ix in std::mem::take(&mut self.heated) {
            let followed = &mut self.followed[ix];
            if followed.take_watches(ix, watch) && !std::mem::replace(&mut followed.is_hot, true) {
                self.hot.push(ix);
            }
        }
        let followed = &mut self.followed;
        self.hot.retain(|ix| {
            let followed = &mut followed[*ix];
            followed.is_hot = followed.had_data_since(now, COOL_AFTER);
            if !followed.is_hot {
                followed.watch_file(*ix, watch);
                followed.is_marked = true; // what was written before the watch was there
            }
            followed.is_hot
        });
    }

    pub(super) fn take_vanished(&mut self) -> Vanished {
        let mut sum = std::mem::take(&mut self.released);
        for followed in &mut self.followed {
            sum.add(&followed.take_vanished());
        }
        sum
    }

    /// True once after a gateway error was read.
    pub(super) fn take_gateway_error(&mut self) -> bool {
        std::mem::take(&mut self.has_gateway_error)
    }

    /// The sample of who asks.
    pub(super) fn clients(&mut self) -> &mut Clients {
        &mut self.cells.clients
    }

    /// How far every known file is read.
    pub(super) fn positions(&self) -> Vec<Position> {
        let followed = self.followed.iter().flat_map(|followed| followed.tail.positions());
        self.orphans.iter().cloned().chain(followed).collect()
    }

    /// Everything read so far is spooled; returns the files that moved, and how far.
    pub(super) fn set_spooled(&mut self) -> Vec<(usize, u64)> {
        let mut moved = Vec::new();
        for (ix, followed) in self.followed.iter_mut().enumerate() {
            let offset = followed.tail.offset();
            if followed.spooled != offset {
                followed.spooled = offset;
                moved.push((ix, offset));
            }
        }
        moved
    }

    /// These offsets are committed at the collector.
    pub(super) fn set_acked(&mut self, offsets: &[(usize, u64)]) {
        for (ix, offset) in offsets {
            // Another log may have the place by now.
            let followed = &mut self.followed[*ix];
            followed.acked = (*offset).min(followed.spooled);
        }
    }

    pub(super) fn unreadable(&self) -> Vec<String> {
        let text =
            |one: &Unreadable| format!("{}: {}: {}", one.path.display(), one.reason, one.fix);
        self.unreadable.iter().map(text).collect()
    }

    pub(super) fn status(&self) -> Vec<FileStatus> {
        self.followed.iter().filter(|one| !one.is_released).map(Followed::status).collect()
    }
}
