//! The host as its probes see it, in the answer of `status`: every series in JSON, what matters as
//! text.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value, json};
use wire::catalog;
use wire::units::Bytes;

use crate::probes::Latest;

/// What the text form shows, in order: metric, words before the value.
const SHOWN: [(&str, &str); 8] = [
    ("system.cpu.utilization", "cpu"),
    ("system.cpu.steal", "steal"),
    ("system.cpu.iowait", "iowait"),
    ("system.memory.utilization", "memory"),
    ("system.swap.utilization", "swap"),
    ("system.filesystem.utilization", "disk"),
    ("system.filesystem.inodes.utilization", "inodes"),
    ("system.conntrack.utilization", "conntrack"),
];

/// So many of them are always shown, the others from this share on.
const N_ALWAYS: usize = 4;
const FULL: f64 = 0.8;

/// `host` of the JSON.
pub(super) fn report(latest: &Latest) -> Value {
    let values = latest.values().into_iter().map(|(metric, attribute, (at, value))| {
        let unit = catalog::find(metric).map(|metric| metric.unit);
        json!({
            "metric": metric,
            "attribute": attribute,
            "value": value,
            "unit": unit,
            "at": at.to_rfc3339(),
        })
    });
    let services = latest.services().into_iter().map(|service| {
        json!({
            "unit": service.unit,
            "state": service.state,
            "pool": service.pool,
            "since": service.at.to_rfc3339(),
            "sub_state": service.detail.sub_state,
            "result": service.detail.result,
            "n_restarts": service.detail.n_restarts,
            "ended": service.detail.ended.map(|ended| format!("{} {}", ended.how, ended.status)),
        })
    });
    json!({"values": values.collect::<Vec<_>>(), "services": services.collect::<Vec<_>>()})
}

/// What the text form reads of it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ShownHost {
    values: Vec<ShownValue>,
    services: Vec<ShownService>,
}

#[derive(Debug, Deserialize)]
struct ShownValue {
    metric: String,
    attribute: String,
    value: f64,
}

#[derive(Debug, Deserialize)]
struct ShownService {
    unit: String,
    state: String,
    since: String,
    result: Option<String>,
}

impl ShownHost {
    /// Attribute (without its key) and value of every series of a metric.
    fn series(&self, metric: &str) -> impl Iterator<Item = (&str, f64)> {
        let of = self.values.iter().filter(move |value| value.metric == metric);
        of.map(|value| (value.attribute.split_once('=').map_or("", |(_, name)| name), value.value))
    }

    fn value(&self, metric: &str, name: &str) -> Option<f64> {
        self.series(metric).find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// A line of resources, one a pool, then the services and what cannot be reached.
pub(super) fn write(out: &mut String, host: &ShownHost) -> std::fmt::Result {
    let mut words = Vec::new();
    for (rank, (metric, word)) in SHOWN.iter().enumerate() {
        for (name, share) in host.series(metric) {
            if rank < N_ALWAYS || share >= FULL {
                let space = if name.is_empty() { "" } else { " " };
                words.push(format!("{word}{space}{name} {:.0} %", share * 100.0));
            }
        }
    }
    let nothing = "nothing sampled yet".to_owned();
    writeln!(out, "host    {}", if words.is_empty() { nothing } else { words.join(", ") })?;
    for (pool, busy) in host.series("phpfpm.active_processes") {
        writeln!(out, "        pool {pool}: {}", workers(host, pool, busy))?;
    }
    let (up, other): (Vec<_>, Vec<_>) = host.services.iter().partition(|s| s.state == "active");
    if !up.is_empty() {
        let names: Vec<_> = up.iter().map(|service| service.unit.as_str()).collect();
        writeln!(out, "        active: {}", names.join(", "))?;
    }
    for ShownService { unit, state, since, result } in other {
        let why = result.as_deref().filter(|why| *why != "success");
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        writeln!(out, "        {unit} is {state} since {since}{why}")?;
    }
    for (address, _) in host.series("gatewatch.upstream.up").filter(|(_, up)| *up < 0.5) {
        writeln!(out, "        upstream {address} cannot be reached")?;
    }
    Ok(())
}

/// `2 of 5 workers busy, 3 wait, 41.0 MiB each`
fn workers(host: &ShownHost, pool: &str, busy: f64) -> String {
    let limit = host.value("phpfpm.max_children", pool);
    let limit = limit.map(|limit| format!(" of {limit:.0}")).unwrap_or_default();
    let waiting = host.value("phpfpm.listen_queue", pool);
    let waiting = waiting.map(|n| format!(", {n:.0} wait")).unwrap_or_default();
    let each = host.value("phpfpm.memory_per_process", pool);
    let each = each.map(|n| format!(", {} each", Bytes(n as u64).rounded())).unwrap_or_default();
    format!("{busy:.0}{limit} workers busy{waiting}{each}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::{Observation, ServiceDetail, ServiceState};
    use wire::UnixMillis;

    #[test]
    fn pools_services_and_what_is_full_are_told_in_words() {
        let latest = Latest::default();
        let value =
            |metric: &'static str, attribute: &str, value| (metric, attribute.to_owned(), value);
        let values = vec![
            value("system.cpu.utilization", "", 0.42),
            value("system.filesystem.utilization", "system.filesystem.mountpoint=/", 0.5),
            value("system.filesystem.utilization", "system.filesystem.mountpoint=/var", 0.93),
            value("phpfpm.active_processes", "phpfpm.pool=www", 2.0),
            value("phpfpm.listen_queue", "phpfpm.pool=www", 3.0),
        ];
        latest.keep(&Observation::Samples { at: UnixMillis(1000), values });
        for (unit, state) in [("nginx.service", "active"), ("php8.2-fpm.service", "failed")] {
            let at = UnixMillis(5000);
            let result = Some("oom-kill".to_owned()).filter(|_| state == "failed");
            let detail = ServiceDetail { result, ..ServiceDetail::default() };
            let state = ServiceState { unit: unit.into(), state, pool: None, at, detail };
            latest.keep(&Observation::Service(state));
        }
        let report = report(&latest);
        assert_eq!(report["values"].as_array().map(Vec::len), Some(5));
        assert_eq!(report["services"][1]["state"], "failed");
        let mut text = String::new();
        write(&mut text, &serde_json::from_value(report).unwrap()).unwrap();
        let want = "host    cpu 42 %, disk /var 93 %
        pool www: 2 workers busy, 3 wait
        active: nginx.service
        php8.2-fpm.service is failed since 1970-01-01T00:00:05.000Z (oom-kill)
";
        assert_eq!(text, want);
    }

    #[test]
    fn a_host_that_was_not_sampled_yet_says_so() {
        let mut text = String::new();
        write(&mut text, &ShownHost::default()).unwrap();
        assert_eq!(text, "host    nothing sampled yet\n");
    }
}
