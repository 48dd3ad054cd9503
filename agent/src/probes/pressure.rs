//! Pressure stall information: the share of the last 10 s in which work waited for a resource.
//!
//! `some` counts a wait of some task, `full` one of all tasks at once. The short names are the
//! telling ones: CPU and disk `some` (`full` of the CPU is always 0 for a whole machine, and only
//! means something in a container), memory `full`: some reclaim is ordinary, a standstill is not.

use std::path::Path;

use super::procfile::ProcFile;
use super::{Values, push};

/// Name of the file, metric of its line `some`, metric of its line `full`.
const RESOURCES: [(&str, &str, &str); 3] = [
    ("cpu", "system.pressure.cpu", "system.pressure.cpu.full"),
    ("memory", "system.pressure.memory.some", "system.pressure.memory"),
    ("io", "system.pressure.io", "system.pressure.io.full"),
];

/// The three files; a kernel without them says so once and the metrics are absent.
#[derive(Debug)]
pub(crate) struct Pressure {
    files: [(&'static str, &'static str, ProcFile); 3],
}

impl Pressure {
    /// `container`: directory of its control group, where a container's own pressure is.
    pub(crate) fn new(container: Option<&Path>) -> Self {
        let files = RESOURCES.map(|(name, some, full)| {
            let own = container.map(|dir| dir.join(format!("{name}.pressure")));
            let path = own.filter(|path| path.exists());
            let path = path.unwrap_or_else(|| Path::new("/proc/pressure").join(name));
            (some, full, ProcFile::new(path))
        });
        Self { files }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        for (some, full, file) in &mut self.files {
            let Some(text) = file.read() else { continue };
            for (metric, kind) in [(*some, "some"), (*full, "full")] {
                if let Some(ratio) = parse_avg10(text, kind) {
                    push(out, metric, ratio);
                }
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

    #[test]
    fn a_container_with_pressure_of_its_own_is_read_there() {
        let dir = tempfile::tempdir().unwrap();
        let text = "some avg10=12.00 avg60=0 avg300=0 total=1\nfull avg10=3.00 avg60=0 total=1\n";
        for name in ["cpu", "memory", "io"] {
            std::fs::write(dir.path().join(format!("{name}.pressure")), text).unwrap();
        }
        let mut out = Values::new();
        Pressure::new(Some(dir.path())).sample(&mut out);
        let got: Vec<_> = out.iter().map(|(metric, _, value)| (*metric, *value)).collect();
        let want = [
            ("system.pressure.cpu", 0.12),
            ("system.pressure.cpu.full", 0.03),
            ("system.pressure.memory.some", 0.12),
            ("system.pressure.memory", 0.03),
            ("system.pressure.io", 0.12),
            ("system.pressure.io.full", 0.03),
        ];
        assert_eq!(got, want);
    }
}
