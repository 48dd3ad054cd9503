//! Every figure of a capacity report, worked out anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

use super::errors::{self, Kinds};
use super::rows::Rows;
use super::table::{Row, Table, Wrong};
use super::truth::{HOUR, Minutes, Truth, Want, between};
use super::{ahead, plans, pools};

/// Limits as the defaults have them.
const CPU: f64 = 0.8;
const MEMORY: f64 = 0.9;
const SWAP: f64 = 0.5;
const DISK: f64 = 0.9;
const IO: f64 = 0.9;
pub(super) const CHILDREN: f64 = 0.9;
const PRESSURE: f64 = 0.1;
const STEAL: f64 = 0.05;

/// What is shown of the truth.
pub(super) struct Look<'a> {
    pub(super) truth: &'a Truth,
    pub(super) hours: Range<i64>,
    /// Labels by server, of all servers.
    pub(super) labels: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// All hours still have their samples.
    pub(super) is_raw: bool,
    /// When the past ends.
    pub(super) end: i64,
    /// What incidents were.
    pub(super) rows: &'a Rows,
}

/// Compares a whole report; returns how many figures were compared.
pub(super) fn check(report: &Value, look: &Look<'_>, wrong: &mut Wrong) -> usize {
    let (mut n, kinds) = (0, errors::kinds(look));
    for (key, table) in super::table::tables(report) {
        let at = format!("capacity.{key} of {} hours", (look.hours.end - look.hours.start) / HOUR);
        n += wrong.look(&at, || match key.as_str() {
            "pools" => table.check(&pools::rows(look, &kinds), &[]),
            "error_minutes" => look.error_minutes(&table, &kinds),
            "days_to_full" => ahead::days_to_full(look, &table),
            "outlook" => ahead::outlook(look, &table),
            "plans" => plans::check(look, &kinds, report, &table),
            key => look.table(key, &table),
        });
        wrong.look(&at, || look.sparks(&key, &table));
    }
    n
}

impl Look<'_> {
    fn table(&self, key: &str, table: &Table) -> usize {
        match key {
            "servers" => table.check(&self.servers(), &["cpu_spark"]),
            "utilization" => table.check(&self.utilization(), &[]),
            "throughput" => table.check(&self.throughput(), &[]),
            "connections" => table.check(&self.connections(), &[]),
            "labels" => table.check(&self.by_label(), &[]),
            "saturation" => table.check(&self.saturation(), &[]),
            "steal" => table.check(&self.steal(), &[]),
            "sites" => table.check(&self.sites(), &[]),
            other => panic!("nobody computes the table {other:?} anew: add it here"),
        }
    }

    pub(super) fn minutes(&self, server: &str, metric: &str, of: &str) -> Minutes {
        self.truth.minutes(server, metric, of, &self.hours)
    }

    pub(super) fn own(&self, server: &str, metric: &str) -> Minutes {
        self.minutes(server, metric, "")
    }

    /// How much there is of something in an hour: as it was said last before, else as first after.
    pub(super) fn size(
        &self,
        server: &str,
        metric: &str,
        of: &str,
    ) -> impl Fn(i64) -> Option<f64> + use<> {
        let mut by_hour: BTreeMap<i64, f64> = BTreeMap::new();
        for (at, value) in self.truth.samples(server, metric, of, &self.hours) {
            let hour = by_hour.entry(at.div_euclid(HOUR)).or_insert(value);
            *hour = hour.max(value);
        }
        move |minute: i64| {
            let before = by_hour.range(..=minute.div_euclid(60)).next_back();
            before.or_else(|| by_hour.iter().next()).map(|(_, size)| *size)
        }
    }

    /// Minutes as shares of how much there is.
    pub(super) fn shares(&self, server: &str, (metric, size): (&str, &str), of: &str) -> Minutes {
        let (all, size) = (self.minutes(server, metric, of), self.size(server, size, of));
        let mut shares =
            all.map(|at, mean| size(at).filter(|size| *size > 0.0).map(|size| mean / size));
        let samples = self.truth.samples(server, metric, of, &self.hours);
        let each = samples.iter().filter_map(|(at, value)| Some(value / size(at.div_euclid(60))?));
        shares.max = each.fold(f64::MIN, f64::max);
        shares
    }

    /// What is used of every resource: its name, what of it, its minutes as shares, its limit.
    fn resources(&self, server: &str) -> Vec<(&'static str, String, Minutes, f64)> {
        let mut found = Vec::new();
        for (name, metric, factor, limit) in [
            ("cpu", "system.cpu.utilization", 1.0, CPU),
            ("memory", "system.memory.utilization", 1.0, MEMORY),
            ("swap", "system.swap.utilization", 1.0, SWAP),
            ("disk", "system.filesystem.utilization", 1.0, DISK),
            ("inodes", "system.filesystem.inodes.utilization", 1.0, DISK),
            ("io", "system.disk.io_time", 0.001, IO),
        ] {
            for of in self.truth.of(server, metric, &self.hours) {
                let minutes = self.minutes(server, metric, of).times(factor);
                found.push((name, of.to_owned(), minutes, limit));
            }
        }
        let children = ("phpfpm.active_processes", "phpfpm.max_children");
        for of in self.truth.of(server, children.0, &self.hours) {
            found.push(("children", of.to_owned(), self.shares(server, children, of), CHILDREN));
        }
        found.retain(|(_, _, minutes, _)| minutes.n() > 0);
        found
    }

    fn utilization(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.truth.servers() {
            for (name, of, minutes, limit) in self.resources(server) {
                let mut row = Row::new(&[("server", server), ("resource", name), ("of", &of)]);
                row.percentiles(["p50_share", "p95_share", "p99_share", "max_share"], &minutes);
                row.put("above_share", minutes.share_above(limit));
                row.put("limit_share", Want::exactly(limit));
                row.put("above_minutes", minutes.minutes_above(limit));
                row.put("minutes", Want::exactly(minutes.n() as f64));
                rows.push(row);
            }
        }
        rows
    }

    fn throughput(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.truth.servers() {
            for (flow, metric) in [
                ("network in", "system.network.io.receive"),
                ("network out", "system.network.io.transmit"),
                ("disk read", "system.disk.io.read"),
                ("disk write", "system.disk.io.write"),
            ] {
                for of in self.truth.of(server, metric, &self.hours) {
                    let minutes = self.minutes(server, metric, of);
                    if minutes.n() == 0 {
                        continue; // one sample of a counter is no rise
                    }
                    let mut row = Row::new(&[("server", server), ("flow", flow), ("of", of)]);
                    let names =
                        ["p50", "p95", "p99", "max"].map(|q| format!("{q}_bytes_per_second"));
                    row.percentiles(names.each_ref().map(String::as_str), &minutes);
                    row.put("total_bytes", Want::exactly(minutes.rise));
                    rows.push(row);
                }
            }
        }
        rows
    }

    fn connections(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.truth.servers() {
            for (kind, metric) in [
                ("nginx", "nginx.connections_current"),
                ("tcp established", "system.tcp.established"),
            ] {
                for of in self.truth.of(server, metric, &self.hours) {
                    let mut row = Row::new(&[("server", server), ("kind", kind), ("of", of)]);
                    let minutes = self.minutes(server, metric, of);
                    row.percentiles(["p50", "p95", "p99", "max"], &minutes);
                    rows.push(row);
                }
            }
        }
        rows
    }

    fn by_label(&self) -> Vec<Row> {
        let mut groups: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for (server, labels) in self.labels {
            for (key, value) in labels {
                groups.entry((key, value)).or_default().insert(server);
            }
        }
        let shared: BTreeSet<&str> =
            groups.iter().filter(|(_, all)| all.len() > 1).map(|((key, _), _)| *key).collect();
        let mut rows = Vec::new();
        for ((label, value), servers) in groups.iter().filter(|((key, _), _)| shared.contains(key))
        {
            let mut all: BTreeMap<&str, (u64, Minutes, f64)> = BTreeMap::new();
            for server in servers {
                let mut own = self.resources(server);
                let steal = self.own(server, "system.cpu.steal");
                own.push(("steal", String::new(), steal, STEAL));
                let mut seen = BTreeSet::new();
                for (name, _, minutes, limit) in own {
                    if name == "children" || minutes.n() == 0 {
                        continue;
                    }
                    let of = all.entry(name).or_insert((0, Minutes::default(), limit));
                    of.0 += u64::from(seen.insert(name));
                    of.1 = std::mem::take(&mut of.1).with(&minutes);
                }
            }
            for (name, (n_servers, minutes, limit)) in all {
                let mut row = Row::new(&[("label", label), ("value", value), ("resource", name)]);
                row.put("servers", Want::exactly(n_servers as f64));
                row.percentiles(["p50_share", "p95_share", "p99_share", "max_share"], &minutes);
                row.put("above_share", minutes.share_above(limit));
                row.put("limit_share", Want::exactly(limit));
                rows.push(row);
            }
        }
        rows
    }

    fn saturation(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.truth.servers() {
            if self.truth.hours(server, &self.hours).is_empty() {
                continue;
            }
            let mut row = Row::new(&[("server", server)]);
            for what in ["cpu", "memory", "io"] {
                let minutes = self.own(server, &format!("system.pressure.{what}"));
                row.put(&format!("{what}_waited_share"), minutes.share_above(PRESSURE));
                row.put(&format!("{what}_pressure_p95_share"), minutes.quantile(0.95));
            }
            let queue = ("system.processes.running", "system.cpu.logical.count");
            row.put("run_queue_p95", self.shares(server, queue, "").quantile(0.95));
            let rise = |metric| {
                let minutes = self.own(server, metric);
                if minutes.n() == 0 { Want::Unknown } else { Want::exactly(minutes.rise.round()) }
            };
            row.put("listen_overflows", rise("system.tcp.listen_overflows"));
            row.put("oom_kills", rise("system.oom_kills"));
            for column in ["blocked_p95", "listen_drops", "throttled_p95_share"] {
                row.put(column, Want::Unknown);
            }
            rows.push(row);
        }
        rows
    }

    fn steal(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.truth.servers() {
            let minutes = self.own(server, "system.cpu.steal");
            if minutes.n() == 0 {
                continue;
            }
            let mut row = Row::new(&[("server", server)]);
            for label in ["provider", "hypervisor"] {
                let value = self.labels[server].get(label);
                row.put(label, Want::text(value.map_or("", String::as_str)));
            }
            row.percentiles(["p50_share", "p95_share", "p99_share", "max_share"], &minutes);
            row.put("above_share", minutes.share_above(STEAL));
            row.put("above_minutes", minutes.minutes_above(STEAL));
            rows.push(row);
        }
        rows
    }

    fn sites(&self) -> Vec<Row> {
        let hours = &self.hours;
        let mut rows = Vec::new();
        for ((server, name), site) in &self.truth.sites {
            if site.sum(hours, |_| true) == 0 {
                continue; // no row without a request
            }
            let n = site.n(hours);
            let own = self.truth.sites.iter().filter(|((of, _), _)| of == server);
            let all: u64 = own.map(|(_, site)| site.n(hours)).sum();
            let n_failed = site.sum(hours, |status| matches!(status, 502 | 504 | 1000));
            let mut row = Row::new(&[("server", server), ("site", name)]);
            row.put("owner", Want::text(&site.owner));
            row.put("pool", Want::text(&site.pool));
            row.put("requests", Want::exactly(n as f64));
            row.put("requests_share", Want::maybe((all > 0).then(|| n as f64 / all as f64)));
            let rates = site.rates(hours);
            row.put("p50_per_second", between(&rates, 0.5, 0.0));
            row.put("p95_per_second", between(&rates, 0.95, 0.0));
            row.put("max_per_second", Want::maybe(rates.last().copied()));
            row.put("gateway_errors", Want::exactly(n_failed as f64));
            row.put("gateway_share", Want::maybe((n > 0).then(|| n_failed as f64 / n as f64)));
            row.put("bad_minutes", Want::exactly(site.bad_minutes(hours).len() as f64));
            rows.push(row);
        }
        rows
    }

    /// The newest hour of a series and its mean.
    pub(super) fn last(&self, server: &str, metric: &str, of: &str) -> Option<(i64, f64)> {
        let samples = self.truth.samples(server, metric, of, &self.hours);
        let hour = samples.last()?.0.div_euclid(HOUR);
        let newest: Vec<f64> =
            samples.iter().filter(|(at, _)| at.div_euclid(HOUR) == hour).map(|(_, v)| *v).collect();
        Some((hour, newest.iter().sum::<f64>() / newest.len() as f64))
    }

    pub(super) fn space(&self, server: &str, mount: &str) -> Option<f64> {
        let used = self.last(server, "system.filesystem.utilization", mount)?;
        let free = self.last(server, "system.filesystem.free", mount)?;
        (used.0 == free.0 && used.1 < 0.999).then(|| free.1 / (1.0 - used.1))
    }

    fn servers(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.labels.keys() {
            let mut row = Row::new(&[("server", server)]);
            let last = |metric| self.last(server, metric, "").map(|(_, value)| value);
            row.put("vcpu", Want::maybe(last("system.cpu.logical.count")));
            row.put("memory_bytes", Want::maybe(last("system.memory.limit")));
            let mounts = self.truth.of(server, "system.filesystem.utilization", &self.hours);
            let spaces: Option<Vec<f64>> =
                mounts.iter().map(|mount| self.space(server, mount)).collect();
            let disk = spaces.filter(|all| !all.is_empty()).map(|all| all.iter().sum());
            row.put("disk_bytes", Want::maybe(disk));
            let seen = self.truth.hours(server, &self.hours);
            let n = seen.first().zip(seen.last()).map_or(0, |(a, b)| (b - a) / HOUR + 1);
            row.put("days", Want::exactly(n as f64 / 24.0));
            let covered = (n > 0).then(|| seen.len() as f64 / n as f64);
            row.put("coverage_share", Want::maybe(covered));
            let cpu = self.own(server, "system.cpu.utilization");
            for (column, q) in
                [("cpu_p50_share", 0.5), ("cpu_p95_share", 0.95), ("cpu_p99_share", 0.99)]
            {
                row.put(column, cpu.quantile(q));
            }
            row.put("cpu_above_share", cpu.share_above(CPU));
            let memory = self.own(server, "system.memory.utilization");
            row.put("memory_p95_share", memory.quantile(0.95));
            row.put("memory_above_share", memory.share_above(MEMORY));
            row.put("swap_p95_share", self.own(server, "system.swap.utilization").quantile(0.95));
            row.put("disk_p95_share", self.fullest(server, "disk"));
            row.put("io_p95_share", self.fullest(server, "io"));
            row.put("steal_p95_share", self.own(server, "system.cpu.steal").quantile(0.95));
            let (least, most) = self.n_error_minutes(server);
            row.put("error_minutes", Want::Between(least, most));
            rows.push(row);
        }
        rows
    }

    /// The largest p95 of several of one kind.
    fn fullest(&self, server: &str, name: &str) -> Want {
        let own = self.resources(server);
        let own = own.iter().filter(|(of, ..)| *of == name);
        own.map(|(_, _, minutes, _)| minutes.quantile(0.95)).fold(Want::Unknown, |all, one| match (
            all, one,
        ) {
            (Want::Between(a, b), Want::Between(c, d)) => Want::Between(a.max(c), b.max(d)),
            (Want::Unknown, one) => one,
            (all, _) => all,
        })
    }

    /// Minutes with a gateway error on a server: exactly where samples are kept, else at least those of
    /// the worst site of each hour.
    fn n_error_minutes(&self, server: &str) -> (f64, f64) {
        let own: Vec<BTreeSet<i64>> = self
            .truth
            .sites
            .iter()
            .filter(|((of, _), _)| of == server)
            .map(|(_, site)| site.bad_minutes(&self.hours))
            .collect();
        let all: BTreeSet<i64> = own.iter().flatten().copied().collect();
        let most = all.len() as f64;
        if self.is_raw {
            return (most, most);
        }
        let hours: BTreeSet<i64> = all.iter().map(|minute| minute.div_euclid(60)).collect();
        let worst = |hour: &i64| {
            let of = |site: &BTreeSet<i64>| site.range(hour * 60..hour * 60 + 60).count();
            own.iter().map(of).max().unwrap_or(0)
        };
        (hours.iter().map(|hour| worst(hour) as f64).sum(), most)
    }

    /// Each kind of minutes with its share of the whole.
    fn error_minutes(&self, table: &Table, kinds: &Kinds) -> usize {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for row in &table.rows {
            let server = row["server"].as_str().expect("a name");
            *sums.entry(server).or_default() += row["minutes"].as_f64().expect("a number");
        }
        for server in self.labels.keys() {
            let told = sums.get(server.as_str()).copied().unwrap_or(0.0);
            let (least, most) = self.n_error_minutes(server);
            assert!((least..=most).contains(&told), "{server}: {told}, not {least} to {most}");
            for (words, (least, most)) in kinds.of(server) {
                let is_it = |row: &&Value| row["server"] == **server && row["came_with"] == words;
                let told = table
                    .rows
                    .iter()
                    .find(is_it)
                    .map_or(0.0, |row| row["minutes"].as_f64().expect("a number"));
                assert!(
                    (least..=most).contains(&told),
                    "{server}: {told} with {words}, not {least} to {most}"
                );
            }
        }
        for row in &table.rows {
            let text = |key: &str| row[key].as_str().expect("words");
            let share = row["minutes"].as_f64().expect("a number") / sums[text("server")];
            assert!(Want::exactly(share).holds(&row["share"]), "{row}: not {share}");
            let is_known = kinds.of(text("server")).any(|(words, _)| words == text("came_with"));
            assert!(is_known && text("remedy").len() > 9, "nothing of {row}");
        }
        table.rows.len() * 3
    }

    /// Minutes of each UTC day, least first; empty where nothing was sampled.
    pub(super) fn days(&self, server: &str, metric: &str, of: &str) -> Vec<Vec<f64>> {
        let first = self.hours.start.div_euclid(86_400);
        let n = (self.hours.end - 1).div_euclid(86_400) - first + 1;
        let mut days = vec![Vec::new(); n as usize];
        for (minute, mean) in self.minutes(server, metric, of).means {
            days[(minute.div_euclid(1440) - first) as usize].push(mean);
        }
        for day in &mut days {
            day.sort_by(f64::total_cmp);
        }
        days
    }

    /// The mean of all samples of each hour.
    pub(super) fn hours_of(&self, server: &str, metric: &str) -> Vec<Option<f64>> {
        let n = (self.hours.end - self.hours.start) / HOUR;
        let mut hours: Vec<Vec<f64>> = vec![Vec::new(); n as usize];
        for (at, value) in self.truth.samples(server, metric, "", &self.hours) {
            hours[((at - self.hours.start) / HOUR) as usize].push(value);
        }
        let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
        hours.into_iter().map(|all| (!all.is_empty()).then(|| mean(all))).collect()
    }

    /// The p95 of each UTC day.
    fn daily_p95(&self, server: &str, metric: &str, of: &str) -> Vec<(i64, f64)> {
        let mut days: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        for (minute, mean) in self.minutes(server, metric, of).means {
            days.entry(minute.div_euclid(1440)).or_default().push(mean);
        }
        let p95 = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[((values.len() - 1) as f64 * 0.95).round() as usize]
        };
        days.into_iter().map(|(day, values)| (day, p95(values))).collect()
    }

    /// Small lines: a value for each day that was sampled, near its p95.
    fn sparks(&self, key: &str, table: &Table) -> usize {
        if key != "servers" {
            return 0;
        }
        for row in &table.rows {
            let server = row["server"].as_str().expect("a name");
            let days = self.daily_p95(server, "system.cpu.utilization", "");
            let told = row["cpu_spark"].as_array().map_or(&[][..], Vec::as_slice);
            let told: Vec<f64> = told.iter().filter_map(Value::as_f64).collect();
            assert_eq!(told.len(), days.len(), "{row}");
            for (told, (_, want)) in told.iter().zip(&days) {
                // Of few minutes the ranks next to it may be far.
                assert!((told / want - 1.0).abs() < 0.25, "{server}: {told} for {want}");
            }
        }
        table.rows.len()
    }
}

/// The median of the slopes between all pairs of days.
pub(super) fn slope(days: &[(i64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (n, (day, level)) in days.iter().enumerate() {
        let later = days[n + 1..].iter();
        slopes.extend(later.map(|(other, is)| (is - level) / (other - day) as f64));
    }
    slopes.sort_by(f64::total_cmp);
    let at = |ix: usize| slopes.get(ix).copied().unwrap_or(0.0);
    f64::midpoint(at(slopes.len() / 2), at(slopes.len().saturating_sub(1) / 2))
}
