//! Runs programs on one core and takes their time, in turns, so that a busy moment hits all alike.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::instant;

/// Rounds of every comparison; the median of each side counts.
const ROUNDS: usize = 7;
/// The same for references that take seconds.
pub(crate) const ROUNDS_SLOW: usize = 5;

/// A program with its arguments; `done` exit codes are good ones.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    words: Vec<String>,
    n_bytes: u64,
}

impl Contestant {
    /// `n_bytes` is what it reads, so that speeds over different inputs can be compared.
    pub(crate) fn new(words: &[&str], files: &[&Path], n_bytes: u64) -> Self {
        let files = files.iter().map(|file| file.display().to_string());
        let words = words.iter().map(|word| (*word).to_owned()).chain(files).collect();
        Self { words, n_bytes }
    }

    /// Runs it once; returns bytes per second.
    fn run(&self) -> Result<f64, String> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = instant();
        let status = command.status().map_err(|error| format!("{}: {error}", self.words[0]))?;
        let seconds = started.elapsed().as_secs_f64();
        if status.success() {
            Ok(self.n_bytes as f64 / seconds)
        } else {
            Err(format!("{} ended with {status}", self.words[0]))
        }
    }
}

/// Medians of bytes per second, one for each contestant.
pub(crate) fn race(contestants: &[&Contestant]) -> Result<Vec<f64>, String> {
    race_for(contestants, ROUNDS)
}

/// The same with a number of rounds.
pub(crate) fn race_for(contestants: &[&Contestant], rounds: usize) -> Result<Vec<f64>, String> {
    let mut speeds = vec![Vec::with_capacity(rounds); contestants.len()];
    for _ in 0..rounds {
        for (speeds, contestant) in speeds.iter_mut().zip(contestants) {
            speeds.push(contestant.run()?);
        }
    }
    Ok(speeds.iter_mut().map(|speeds| quantile(speeds, 0.5)).collect())
}

/// The value below which a share of all lies.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Reads files once, so that they are in the page cache; returns their bytes.
pub(crate) fn warm(files: &[&Path]) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut n_bytes = 0;
    for file in files {
        let mut file = File::open(file)?;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            n_bytes += n as u64;
        }
    }
    Ok(n_bytes)
}

/// Keeps this program and all it starts from now on to some processors, like `0` or `0-63`.
pub(crate) fn pin(processors: &str) -> Result<(), String> {
    pin_process(std::process::id(), processors)
}

/// Keeps a running program to some processors.
pub(crate) fn pin_process(pid: u32, processors: &str) -> Result<(), String> {
    output(&["taskset", "-acp", processors, &pid.to_string()]).map(|_| ())
}

/// True when a reference program is there.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join(program).is_file())
}

/// Standard output and error of a program that ended well.
pub(crate) fn output(words: &[&str]) -> Result<(String, String), String> {
    let done = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("{}: {error}", words[0]))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() {
        Ok((text(&done.stdout), text(&done.stderr)))
    } else {
        let told = text(&done.stderr);
        let line = told.lines().find(|line| line.starts_with("error")).or(told.lines().last());
        Err(format!("{} ended with {}: {:.120}", words[0], done.status, line.unwrap_or_default()))
    }
}

/// What some processes have cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    cpu_ns: u64,
    n_wakeups: u64,
    written_bytes: u64,
    rss_kib: u64,
}

/// What they cost over a span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// Of one processor.
    pub(crate) cpu_share: f64,
    /// A thread that waited was given the processor.
    pub(crate) wakeups_per_s: f64,
    /// To the disk, in whole pages.
    pub(crate) written_per_s: f64,
    /// At its end.
    pub(crate) rss_mib: f64,
}

impl Cost {
    /// Threads that ended since are missed: none of these programs ends any at rest.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut cost = Self::default();
        for pid in pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let text = |name: &str| fs::read_to_string(task.path().join(name));
                let times = text("schedstat").unwrap_or_default();
                let ns = times.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
                cost.cpu_ns += ns.unwrap_or(0);
                let status = text("status").unwrap_or_default();
                cost.n_wakeups += field(&status, "voluntary_ctxt_switches:");
            }
            let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
            cost.written_bytes += field(&text("io").unwrap_or_default(), "write_bytes:");
            cost.rss_kib += field(&text("status").unwrap_or_default(), "VmRSS:");
        }
        cost
    }

    pub(crate) fn since(&self, before: &Self, seconds: f64) -> Rates {
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            cpu_share: per_s(self.cpu_ns, before.cpu_ns) / 1e9,
            wakeups_per_s: per_s(self.n_wakeups, before.n_wakeups),
            written_per_s: per_s(self.written_bytes, before.written_bytes),
            rss_mib: self.rss_kib as f64 / 1024.0,
        }
    }
}

fn field(text: &str, label: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(label)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// A process and all that it started, and they.
pub(crate) fn with_children(pid: u32) -> Vec<u32> {
    let mut parents: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let child = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(parent), Some(child)) = (parent.and_then(|p| p.parse().ok()), child) {
            parents.entry(parent).or_default().push(child);
        }
    }
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        all.extend(parents.get(pid).into_iter().flatten().copied().collect::<Vec<_>>());
        at += 1;
    }
    all
}
