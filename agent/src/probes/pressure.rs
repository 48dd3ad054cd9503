//! Pressure stall information: the share of the last 10 s in which work waited for a resource.
//!
//! CPU and disk count a wait of some task (system-wide `full` of the CPU is always 0), memory only
//! one of all tasks at once: some reclaim is ordinary, a standstill is not.

use super::procfile::ProcFile;
use super::{Values, push};

/// The three files; a kernel without them says so once and the metrics are absent.
#[derive(Debug)]
pub(crate) struct Pressure {
    files: [(&'static str, &'static str, ProcFile); 3],
}

impl Pressure {
    pub(crate) fn new() -> Self {
        Self {
            files: [
                ("system.pressure.cpu", "some", ProcFile::new("/proc/pressure/cpu")),
                ("system.pressure.memory", "full", ProcFile::new("/proc/pressure/memory")),
                ("system.pressure.io", "some", ProcFile::new("/proc/pressure/io")),
            ],
        }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        for (metric, kind, file) in &mut self.files {
            if let Some(ratio) = file.read().and_then(|text| parse_avg10(text, kind)) {
                push(out, metric, ratio);
            }
        }
    }
}

/// `some avg10=1.57 avg60=1.33 avg300=1.23 total=41619298`: 0.0157 for `some`.
fn parse_avg10(text: &str, kind: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(kind))?;
    let value = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    let percent: f64 = value.parse().ok()?;
    // The kernel's fixed-point average may overshoot 100 by a hair.
    (0.0..=101.0).contains(&percent).then(|| (percent / 100.0).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_become_ratios_and_what_is_missing_is_absent() {
        let io = "some avg10=2.45 avg60=1.60 avg300=0.73 total=7838831\n\
                  full avg10=100.02 avg60=1.55 avg300=0.67 total=6070781\n";
        let check = |text: &str, kind: &str, want| assert_eq!(parse_avg10(text, kind), want);
        check(io, "some", Some(0.0245));
        check(io, "full", Some(1.0));
        check("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", "full", None); // cpu before 5.13
        check("some avg60=0.00\n", "some", None);
        check("some avg10=nan\n", "some", None);
        check("some avg10=-1\n", "some", None);
        check("", "some", None);
    }
}
