//! Load averages, threads and open files, and how near the kernel's limits they are.

use super::procfile::ProcFile;
use super::{Detail, Values, push};

/// What is limited for the machine as a whole.
#[derive(Debug)]
pub(crate) struct Load {
    loadavg: ProcFile,
    pid_max: ProcFile,
    threads_max: ProcFile,
    file_nr: ProcFile,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            loadavg: ProcFile::new("/proc/loadavg"),
            pid_max: ProcFile::new("/proc/sys/kernel/pid_max"),
            threads_max: ProcFile::new("/proc/sys/kernel/threads-max"),
            file_nr: ProcFile::new("/proc/sys/fs/file-nr"),
        }
    }

    pub(crate) fn sample(&mut self, detail: Detail, out: &mut Values) {
        let loadavg = self.loadavg.read().and_then(parse_loadavg);
        if let Some(([one, five, fifteen], _)) = loadavg {
            push(out, "system.cpu.load_average.1m", one);
            push(out, "system.cpu.load_average.5m", five);
            push(out, "system.cpu.load_average.15m", fifteen);
        }
        if detail == Detail::Core {
            return;
        }
        if let Some(n) = loadavg.and_then(|(_, n_threads)| n_threads) {
            push(out, "system.threads", n as f64);
            // Every thread takes a number of its own, so the smaller limit is met first.
            let limits = [self.pid_max.read_number(), self.threads_max.read_number()];
            let limit = limits.into_iter().flatten().filter(|limit| *limit > 0).min();
            if let Some(limit) = limit {
                push(out, "system.threads.utilization", (n as f64 / limit as f64).min(1.0));
            }
        }
        if let Some((n, limit)) = self.file_nr.read().and_then(parse_file_nr) {
            push(out, "system.file_handles", n as f64);
            push(out, "system.file_handles.utilization", (n as f64 / limit as f64).min(1.0));
        }
    }
}

/// `0.05 0.37 1.05 1/92 12318`: averages, and threads of the machine behind the slash.
fn parse_loadavg(text: &str) -> Option<([f64; 3], Option<u64>)> {
    let mut words = text.split_ascii_whitespace();
    let mut averages = [0.0; 3];
    for average in &mut averages {
        *average = words.next()?.parse().ok().filter(|load: &f64| load.is_finite())?;
    }
    let n_threads = words.next().and_then(|word| word.split_once('/')?.1.parse().ok());
    Some((averages, n_threads))
}

/// `allocated free limit`: file handles in use, and how many there may be.
fn parse_file_nr(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (allocated, free, limit) = (words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?);
    (limit > 0).then(|| (allocated.saturating_sub(free), limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_threads_are_read_and_nonsense_is_absent() {
        let check = |text: &str, want| assert_eq!(parse_loadavg(text), want, "{text:?}");
        check("0.05 0.37 1.05 1/92 12318\n", Some(([0.05, 0.37, 1.05], Some(92))));
        check("120.50 80.00 40.25 31/2044 9\n", Some(([120.5, 80.0, 40.25], Some(2044))));
        check("0.00 0.01 0.05\n", Some(([0.0, 0.01, 0.05], None)));
        check("0.00 0.01 0.05 1of9\n", Some(([0.0, 0.01, 0.05], None)));
        check("0.00 inf 0.05 1/9 3\n", None);
        check("0.00 0.01\n", None);
        check("", None);
    }

    #[test]
    fn file_handles_in_use_are_those_not_free() {
        let check = |text: &str, want| assert_eq!(parse_file_nr(text), want, "{text:?}");
        check("521\t0\t2466170\n", Some((521, 2_466_170)));
        check("3392\t12\t381412\n", Some((3380, 381_412))); // 2.6: some are kept free
        check("1000\t0\t9223372036854775807\n", Some((1000, i64::MAX as u64)));
        check("1 0 0\n", None);
        check("1 0\n", None);
        check("x y z\n", None);
    }
}
