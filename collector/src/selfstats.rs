//! The collector's own counters: what `/metrics` shows of the stages before the detector.
//!
//! Counters only rise; they start at zero with the process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

/// Upper bounds of the commit latency histogram, milliseconds; one more bucket is unbounded.
pub const COMMIT_BUCKETS_MS: [u64; 9] = [1, 2, 5, 10, 20, 50, 100, 250, 1000];

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Says how much it is.
    pub fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that holds or does not.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Says whether it holds.
    pub fn set(&self, holds: bool) {
        self.0.store(holds, Ordering::Relaxed);
    }

    /// Whether it holds.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident)*) => {
        /// Every counter of ingest and store.
        #[derive(Debug, Default)]
        pub struct SelfStats {
            $($(#[doc = $doc])+ pub $name: Counter,)*
            /// Time from the first batch of a group to its commit.
            pub commit_latency: Latency,
            /// Sites that fail so often that they never open.
            pub chronic: Chronic,
            /// How long the oldest hour that should be packed has waited, seconds; 0: none is due.
            pub sealing_behind_s: Gauge,
            /// What the data directory takes.
            pub disk_use: DiskUses,
            /// The disk under the database takes nothing.
            pub disk_full: Flag,
            /// The collector's own network is gone.
            pub uplink_lost: Flag,
        }

        impl SelfStats {
            /// Name, meaning and value of each counter, for `/metrics`.
            pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), self.$name.get())),*]
            }
        }
    };
}

counters! {
    /// Batches committed.
    batches_stored
    /// Bytes of batch bodies committed.
    batch_bytes_stored
    /// Batches that came again after their commit: acked and dropped.
    batches_duplicate
    /// Batches refused because one before them is missing.
    batches_out_of_order
    /// Batches of an earlier life of their spool: refused.
    batches_old_epoch
    /// Batches whose body cannot be read: stored as their reason.
    batches_unreadable
    /// Batches that were stored whole and do not unpack any more: not served, not packed.
    batches_damaged
    /// Batches that agents declared lost to a full spool.
    batches_evicted
    /// Log lines counted in those.
    lines_evicted
    /// Entries of batch bodies that make no sense and were left out.
    entries_refused
    /// Sites over the limit of one server.
    sites_refused
    /// Transactions committed.
    commits
    /// Transactions that failed and were rolled back.
    commits_failed
    /// Times the database was locked by another program: a bug.
    commits_busy
    /// Transactions refused because the disk is full or broken.
    commits_disk_full
    /// Reads cut off because they took too long.
    reads_cut_off
    /// Hours packed into their day file.
    hours_sealed
    /// Parts packed for batches that came after their hour was.
    parts_late
    /// Samples packed.
    samples_sealed
    /// Bytes of packed samples, counts and events.
    bytes_sealed
    /// Samples that could not be packed: unknown metric, too many of one server, out of range.
    samples_refused
    /// Gateway errors over 20 of one site, signal and hour: counted, but not kept one by one when packed.
    exemplars_thinned
    /// Entries not packed because their time is nonsense: far from when they came.
    entries_misdated
    /// Entries not packed because their day had left by `[retention] raw` when they came.
    entries_expired
    /// Packed columns or files found damaged: not served any more, never deleted.
    blocks_damaged
    /// Day files that should be there and are not, or are not the ones that were written.
    day_files_missing
    /// Times packing failed; tried again.
    sealings_failed
    /// Request counts that could not be packed: no such site, no status, too many of one server.
    counts_refused
    /// States, log lines and changes that could not be packed: too many of one server and hour.
    events_refused
    /// Batches of servers that were removed from the fleet before their hour was packed: not packed.
    batches_forgotten
    /// Batches deleted after all their hours were packed.
    batches_swept
    /// Hours summed up for `[retention] rollup`.
    hours_rolled
    /// Day files dropped by age or for `disk_bytes_max`.
    days_dropped
    /// Month files dropped by age or for `disk_bytes_max`.
    months_dropped
    /// Incidents dropped for `disk_bytes_max`.
    incidents_dropped
    /// Old events, gaps, notices, silences and certificates dropped by age.
    rows_dropped
    /// Answers that were cut short, and said so.
    reads_cut_short
    /// Backups made.
    backups_made
    /// Backups that failed.
    backups_failed
    /// Streams opened by agents.
    streams_opened
    /// Streams refused: no, revoked or unknown certificate, or a version not spoken here.
    streams_refused
    /// Streams ended by a newer one of the same server.
    streams_superseded
    /// Times a stream was read slower because its agent sends more than is read of one server.
    streams_paused
    /// Messages of agents that break the protocol.
    messages_refused
    /// Heartbeats the detector was too busy to take; the next one covers them.
    heartbeats_dropped
    /// Records of batches more than five minutes ahead or older than 28 days: not used.
    records_misdated
    /// Records of batches about a site that nobody has named: not used.
    records_homeless
    /// TLS handshakes that failed or took too long.
    handshakes_failed
    /// Connections refused because too many had not yet shown a certificate.
    connections_refused
}

/// Sites whose past is so bad that a failure says nothing: (server, site), as the detector last saw.
#[derive(Debug, Default)]
pub struct Chronic(Mutex<Arc<[(String, String)]>>);

impl Chronic {
    /// Replaces the list.
    pub fn set(&self, sites: Vec<(String, String)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sites.into();
    }

    /// The list.
    pub fn get(&self) -> Arc<[(String, String)]> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the data directory takes on its disk, and how far back history goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// `gatewatch.db` and its logs.
    pub hot_bytes: u64,
    /// Day files.
    pub blocks_bytes: u64,
    /// Month files.
    pub rollup_bytes: u64,
    /// Everything in the directory.
    pub all_bytes: u64,
    /// `[retention] disk_bytes_max`.
    pub bytes_max: u64,
    /// Free on its disk.
    pub free_bytes: u64,
    /// It takes more than it may, and nothing is left to drop: history is young, incidents are open.
    pub is_over: bool,
    /// The first hour of packed samples.
    #[serde(with = "wire::rfc3339::option")]
    pub raw_from: Option<UnixMillis>,
    /// The first day of hourly sums.
    #[serde(with = "wire::rfc3339::option")]
    pub rollup_from: Option<UnixMillis>,
}

/// What was measured last, each `seal_interval`.
#[derive(Debug, Default)]
pub struct DiskUses {
    last: Mutex<Option<DiskUse>>,
    is_over: Flag,
}

impl DiskUses {
    /// Replaces it.
    pub fn set(&self, found: DiskUse) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// What was measured; `None` before the first time.
    pub fn get(&self) -> Option<DiskUse> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether the directory is too large and nothing is left to drop; returns what held before.
    pub fn set_over(&self, is_over: bool) -> bool {
        let before = self.is_over.get();
        self.is_over.set(is_over);
        before
    }

    /// Whether the directory is too large and nothing is left to drop.
    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; COMMIT_BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    /// Files one duration.
    pub fn record(&self, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        let ix = COMMIT_BUCKETS_MS.iter().position(|bound| ms <= *bound as f64);
        self.buckets[ix.unwrap_or(COMMIT_BUCKETS_MS.len())].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Counts by bucket, not cumulative, the unbounded one last; and the sum in seconds.
    pub fn get(&self) -> (Vec<u64>, f64) {
        let counts = self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        (counts, self.sum_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_listed_with_their_meaning() {
        let stats = SelfStats::default();
        stats.batches_stored.add(3);
        let all = stats.counters();
        assert_eq!(all[0], ("batches_stored", "Batches committed.", 3));
        assert!(all.iter().all(|(_, meaning, _)| meaning.ends_with('.')));
    }

    #[test]
    fn durations_fall_into_the_bucket_that_bounds_them() {
        let latency = Latency::default();
        for ms in [0, 1, 3, 50, 51, 5000] {
            latency.record(Duration::from_millis(ms));
        }
        let (counts, sum) = latency.get();
        assert_eq!(counts, [2, 0, 1, 0, 0, 1, 1, 0, 0, 1]);
        assert!((sum - 5.105).abs() < 1e-6);
    }
}
