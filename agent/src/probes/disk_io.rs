//! What the disks moved, how long a read or write took, and how long the queue was.
//!
//! `254 0 vda reads merged sectors ms writes merged sectors ms in_flight io_ms weighted_ms ...`, and
//! from kernel 4.18 on `discards merged sectors ms`. Only whole disks are told: what runs over a
//! device-mapper or md device is counted on the disks below it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Values;
use super::procfile::ProcFile;
use super::rise::rise;

/// Disks beyond this are not sampled: such a machine is a storage farm.
const DISKS_MAX: usize = 64;

/// Bytes of a sector in /proc/diskstats, whatever the disk's own is.
const SECTOR_BYTES: u64 = 512;

/// A shorter time between two looks gives no honest mean.
const SPAN_MIN: Duration = Duration::from_millis(100);

/// The disks, and what they had moved at the last look.
#[derive(Debug)]
pub(crate) struct DiskIo {
    diskstats: ProcFile,
    last: BTreeMap<String, Moved>,
    last_at: Option<Instant>,
}

/// One disk since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moved {
    reads: Kind,
    writes: Kind,
    discards: Kind,
    n_in_flight: u64,
    busy_ms: u64,
    /// Each operation's time added up, the queue's length times its duration.
    weighted_ms: u64,
}

/// Operations of one kind: number, sectors, and time they took, all added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kind {
    n: u64,
    sectors: u64,
    ms: u64,
}

impl DiskIo {
    pub(crate) fn new() -> Self {
        Self { diskstats: ProcFile::new("/proc/diskstats"), last: BTreeMap::new(), last_at: None }
    }

    pub(crate) fn sample(&mut self, now: Instant, out: &mut Values) {
        let Some(disks) = self.diskstats.read().map(parse_diskstats) else { return };
        let span = self.last_at.map(|last| now.saturating_duration_since(last));
        let is_due = span.is_none_or(|span| span >= SPAN_MIN);
        for (name, moved) in &disks {
            let attribute = format!("system.device={name}");
            push_moved(*moved, &attribute, out);
            if let (Some(last), Some(span), true) = (self.last.get(*name), span, is_due) {
                push_waited(*last, *moved, span, &attribute, out);
            }
        }
        if is_due {
            self.last_at = Some(now);
            self.last.retain(|name, _| disks.iter().any(|(known, _)| known == name));
            for (name, moved) in disks {
                match self.last.get_mut(name) {
                    Some(last) => *last = moved,
                    None => drop(self.last.insert(name.to_owned(), moved)),
                }
            }
        }
    }
}

/// Counters since boot, and what is on its way now.
fn push_moved(moved: Moved, attribute: &str, out: &mut Values) {
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
    for (metric, n) in [
        ("system.disk.io.read", bytes(moved.reads.sectors)),
        ("system.disk.io.write", bytes(moved.writes.sectors)),
        ("system.disk.operations", moved.reads.n.saturating_add(moved.writes.n)),
        ("system.disk.io_time", moved.busy_ms),
        ("system.disk.pending_operations", moved.n_in_flight),
    ] {
        out.push((metric, attribute.to_owned(), n as f64));
    }
}

/// Mean time of an operation and mean length of the queue since the last look. Where nothing was
/// read, no read took any time: that is absent, not 0.
fn push_waited(last: Moved, now: Moved, span: Duration, attribute: &str, out: &mut Values) {
    for (metric, last, now) in [
        ("system.disk.latency.read", last.reads, now.reads),
        ("system.disk.latency.write", last.writes, now.writes),
        ("system.disk.latency.discard", last.discards, now.discards),
    ] {
        if let (Some(n @ 1..), Some(ms)) = (rise(last.n, now.n), rise(last.ms, now.ms)) {
            out.push((metric, attribute.to_owned(), ms as f64 / n as f64 / 1000.0));
        }
    }
    if let Some(ms) = rise(last.weighted_ms, now.weighted_ms) {
        let length = ms as f64 / 1000.0 / span.as_secs_f64();
        out.push(("system.disk.queue_length", attribute.to_owned(), length));
    }
}

/// Whole disks that were ever used, by name.
fn parse_diskstats(text: &str) -> Vec<(&str, Moved)> {
    let mut names = BTreeSet::new();
    let mut disks = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(2);
        let Some(name) = words.next() else { continue };
        names.insert(name);
        let mut f = [0_u64; 15];
        let n = f.iter_mut().zip(words.map_while(|word| word.parse().ok()));
        // Eleven from 2.6.25 on; the discards came with 4.18.
        if n.map(|(slot, number)| *slot = number).count() < 11 {
            continue;
        }
        if is_virtual(name) || parent(name).is_some_and(|disk| names.contains(disk)) {
            continue;
        }
        let kind = |at: usize| Kind { n: f[at], sectors: f[at + 2], ms: f[at + 3] };
        let (reads, writes, discards) = (kind(0), kind(4), kind(11));
        if reads.n == 0 && writes.n == 0 {
            continue;
        }
        let [n_in_flight, busy_ms, weighted_ms] = [f[8], f[9], f[10]];
        disks.push((name, Moved { reads, writes, discards, n_in_flight, busy_ms, weighted_ms }));
    }
    disks.truncate(DISKS_MAX);
    disks
}

/// Devices whose traffic is already counted on the disks below them, or that are none.
fn is_virtual(name: &str) -> bool {
    ["loop", "ram", "zram", "dm-", "md", "sr", "fd"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// The disk a partition would be on: `sda1` and `nvme0n1p2` name `sda` and `nvme0n1`.
fn parent(name: &str) -> Option<&str> {
    let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if disk.len() == name.len() {
        return None;
    }
    let numbered = disk.strip_suffix('p').filter(|d| d.ends_with(|c: char| c.is_ascii_digit()));
    Some(numbered.unwrap_or(disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_disks_are_counted_and_their_partitions_are_not() {
        let text = "   7       0 loop0 5 0 9 0 0 0 0 0 0 0 0 0 0 0 0
 8 0 sda 100 5 2000 30 50 6 1000 40 2 77 90 7 0 800 3
 8 1 sda1 90 5 1900 30 50 6 1000 40 0 70 90
 259 0 nvme0n1 1 0 2 0 3 0 4 0 0 5 6
 259 1 nvme0n1p1 1 0 2 0 3 0 4 0 0 5 6
 202 1 xvda1 7 0 8 0 0 0 0 0 0 9 9
 253 0 dm-0 9 9 9 9 9 9 9 9 9 9 9
 9 127 md127 9 9 9 9 9 9 9 9 9 9 9
 8 16 sdb 0 0 0 0 0 0 0 0 0 0 0
 8 32 sdc 1 2 3
 8 48 sdd 1 2 3 4 5 6 x 8 9 10 11
";
        let disks = parse_diskstats(text);
        let names: Vec<_> = disks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["sda", "nvme0n1", "xvda1"]); // Xen may show a partition without its disk
        let sda = Moved {
            reads: Kind { n: 100, sectors: 2000, ms: 30 },
            writes: Kind { n: 50, sectors: 1000, ms: 40 },
            discards: Kind { n: 7, sectors: 800, ms: 3 },
            n_in_flight: 2,
            busy_ms: 77,
            weighted_ms: 90,
        };
        assert_eq!(disks[0].1, sda);
        assert_eq!(disks[1].1.discards, Kind::default(), "3.10 knows of none");
        let mut out = Values::new();
        push_moved(sda, "d", &mut out);
        let values: Vec<f64> = out.iter().map(|(_, _, value)| *value).collect();
        assert_eq!(values, [2000.0 * 512.0, 1000.0 * 512.0, 150.0, 77.0, 2.0]);
        assert!(parse_diskstats("").is_empty());
    }

    /// `last` and `now`: reads, ms of reads, writes, ms of writes, weighted ms. `want`: latencies in
    /// ms and length of the queue over two seconds, by the first letter.
    fn check(last: [u64; 5], now: [u64; 5], want: &[(char, f64)]) {
        let moved = |[reads, read_ms, writes, write_ms, weighted_ms]: [u64; 5]| Moved {
            reads: Kind { n: reads, sectors: 0, ms: read_ms },
            writes: Kind { n: writes, sectors: 0, ms: write_ms },
            weighted_ms,
            ..Moved::default()
        };
        let mut out = Values::new();
        push_waited(moved(last), moved(now), Duration::from_secs(2), "d", &mut out);
        let got: Vec<_> = out
            .iter()
            .map(|(metric, _, value)| match *metric {
                "system.disk.latency.read" => ('r', *value * 1000.0),
                "system.disk.latency.write" => ('w', *value * 1000.0),
                _ => ('q', *value),
            })
            .collect();
        assert_eq!(got, want, "{last:?} {now:?}");
    }

    #[test]
    fn latency_is_the_mean_of_the_operations_between_two_looks() {
        let last = [100, 30, 50, 40, 70];
        check(last, [110, 80, 54, 60, 3070], &[('r', 5.0), ('w', 5.0), ('q', 1.5)]);
        check(last, [100, 30, 60, 60, 70], &[('w', 2.0), ('q', 0.0)]);
        check(last, last, &[('q', 0.0)]);
        // Times are 32 bits wide: they were full, and the numbers of operations were not.
        let full = [100, 4_294_967_290, 50, 40, 4_294_967_000];
        check(full, [110, 44, 50, 40, 3704], &[('r', 5.0), ('q', 2.0)]);
        // The disk was taken away and another one has its name.
        check(last, [5, 1, 3, 2, 1], &[]);
    }

    #[test]
    fn disks_of_this_machine_are_sampled_twice() {
        let mut disks = DiskIo::new();
        let start = crate::clock::instant();
        disks.sample(start, &mut Values::new());
        let mut out = Values::new();
        disks.sample(start + Duration::from_millis(5), &mut out);
        assert!(!out.iter().any(|(metric, _, _)| *metric == "system.disk.queue_length"));
        let n_disks = disks.last.len();
        out.clear();
        disks.sample(start + Duration::from_secs(1), &mut out);
        let n = out.iter().filter(|(metric, _, _)| *metric == "system.disk.queue_length").count();
        assert_eq!(n, n_disks);
    }

    #[test]
    fn partitions_and_virtual_devices_are_told_by_name() {
        for (name, want) in [("sda1", Some("sda")), ("nvme0n1p2", Some("nvme0n1")), ("vda", None)] {
            assert_eq!(parent(name), want, "{name}");
        }
        for name in ["dm-0", "md127", "loop7", "zram0"] {
            assert!(is_virtual(name), "{name}");
        }
        assert!(!is_virtual("mdadm") && !is_virtual("sda"));
    }
}
