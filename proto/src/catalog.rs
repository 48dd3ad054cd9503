//! The metric catalog: one row per metric that an agent may send.
//!
//! Names and units follow the OpenTelemetry system conventions. A value travels as an integer:
//! the value in its unit times `scale`, rounded. A metric not sampled is absent, never zero.

/// How values of a metric behave over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A level: the value now.
    Gauge,
    /// Only rises until the machine boots again.
    Counter,
}

/// One row of the catalog.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name, e.g. `system.cpu.utilization`.
    pub name: &'static str,
    /// Unit in UCUM: `1` (ratio or count), `By`, `s`.
    pub unit: &'static str,
    /// Level or counter.
    pub kind: Kind,
    /// The wire carries `value * scale`, rounded.
    pub scale: f64,
    /// Smallest and largest value that is no nonsense.
    pub range: (f64, f64),
}

const RATIO: (f64, f64) = (0.0, 1.0);
const COUNT: (f64, f64) = (0.0, 9e15);

const fn ratio(name: &'static str) -> Metric {
    Metric { name, unit: "1", kind: Kind::Gauge, scale: 10_000.0, range: RATIO }
}

const fn gauge(name: &'static str, unit: &'static str, scale: f64) -> Metric {
    Metric { name, unit, kind: Kind::Gauge, scale, range: COUNT }
}

const fn counter(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, kind: Kind::Counter, scale: 1.0, range: COUNT }
}

/// Every metric. Rows are added at the end and never removed.
pub const METRICS: &[Metric] = &[
    ratio("system.cpu.utilization"),
    ratio("system.cpu.user"),
    ratio("system.cpu.system"),
    ratio("system.cpu.iowait"),
    ratio("system.cpu.steal"),
    gauge("system.cpu.load_average.1m", "1", 100.0),
    gauge("system.cpu.load_average.5m", "1", 100.0),
    gauge("system.cpu.load_average.15m", "1", 100.0),
    gauge("system.memory.limit", "By", 1.0),
    gauge("system.memory.available", "By", 1.0),
    ratio("system.memory.utilization"),
    gauge("system.swap.used", "By", 1.0),
    ratio("system.swap.utilization"),
    ratio("system.pressure.cpu"),
    ratio("system.pressure.memory"),
    ratio("system.pressure.io"),
    counter("system.oom_kills", "1"),
    ratio("system.filesystem.utilization"),
    gauge("system.filesystem.free", "By", 1.0),
    ratio("system.filesystem.inodes.utilization"),
    counter("system.disk.io.read", "By"),
    counter("system.disk.io.write", "By"),
    counter("system.disk.operations", "1"),
    counter("system.disk.io_time", "ms"),
    counter("system.network.io.receive", "By"),
    counter("system.network.io.transmit", "By"),
    counter("system.network.errors", "1"),
    counter("system.network.dropped", "1"),
    ratio("system.network.tcp.retransmit"),
    counter("system.tcp.listen_overflows", "1"),
    counter("system.tcp.listen_drops", "1"),
    ratio("system.conntrack.utilization"),
    gauge("system.processes", "1", 1.0),
    gauge("phpfpm.active_processes", "1", 1.0),
    gauge("phpfpm.listen_queue", "1", 1.0),
    counter("phpfpm.max_children_reached", "1"),
    counter("gatewatch.agent.cpu_time", "ms"),
    gauge("gatewatch.agent.memory", "By", 1.0),
    gauge("gatewatch.agent.spool", "By", 1.0),
];

/// The row of a metric; `None` when the catalog does not have it.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

impl Metric {
    /// The integer the wire carries for `value`; `None` when it is out of range or no number.
    #[must_use]
    pub fn to_wire(&self, value: f64) -> Option<i64> {
        let (low, high) = self.range;
        (value.is_finite() && value >= low && value <= high)
            .then(|| (value * self.scale).round() as i64)
    }

    /// The value behind an integer of the wire; `None` when it is out of range.
    #[must_use]
    pub fn from_wire(&self, scaled: i64) -> Option<f64> {
        let value = scaled as f64 / self.scale;
        (value >= self.range.0 && value <= self.range.1).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_values_survive_the_wire_within_half_a_step() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let value = metric.range.1.min(0.1234);
            let back = metric.to_wire(value).and_then(|scaled| metric.from_wire(scaled));
            let back = back.expect("a value in range survives");
            assert!((back - value).abs() <= 0.5 / metric.scale, "{}: {back}", metric.name);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let steal = find("system.cpu.steal").expect("steal is in the catalog");
        for value in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
            assert_eq!(steal.to_wire(value), None, "{value}");
        }
        assert_eq!(steal.from_wire(10_001), None);
        assert!(find("no.such.metric").is_none());
    }
}
