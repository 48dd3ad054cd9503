//! Every figure of the outage and noise reports, worked out anew: minutes out of the rows of incidents, one
//! by one, everything else out of what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::Value;

use super::capacity::Look;
use super::rows::{Known, Rows};
use super::table::{Row, Wrong, tables};
use super::truth::{HOUR, Minutes, Want};

const SLO: f64 = 0.999;
const STEAL: f64 = 0.05;

/// Minutes since the epoch.
type Set = BTreeSet<i64>;

/// The minutes with an instant of a time.
fn minutes(from: i64, to: i64, within: &Range<i64>) -> Set {
    let first = from.div_euclid(60_000);
    let end = (to - 1).div_euclid(60_000).max(first);
    (first.max(within.start)..=end.min(within.end - 1)).collect()
}

/// What one site lost.
#[derive(Default)]
struct Lost {
    server: String,
    name: String,
    owner: String,
    n: i64,
    all: Set,
    hard: Set,
    by_incident: BTreeMap<String, Set>,
}

/// The times of several sites together.
#[derive(Default)]
struct Sum {
    n: f64,
    lost: f64,
    slow: f64,
    any: Set,
}

impl Sum {
    fn of<'a>(sites: impl Iterator<Item = &'a Lost>) -> Self {
        let mut sum = Self::default();
        for site in sites {
            sum.n += site.n as f64;
            sum.lost += site.all.len() as f64;
            sum.slow += site.all.difference(&site.hard).count() as f64;
            sum.any.extend(&site.all);
        }
        sum
    }

    fn put(&self, row: &mut Row) {
        let known = |value: f64| Want::maybe((self.n > 0.0).then_some(value));
        row.put("availability_ratio", known(1.0 - self.lost / self.n));
        row.put("budget_used_ratio", known(self.lost / ((1.0 - SLO) * self.n)));
        row.put("lost_minutes", Want::exactly(self.lost));
        row.put("site_minutes", Want::exactly(self.n));
    }
}

fn words(text: &Value) -> Want {
    text.as_str().map_or(Want::Unknown, |text| Want::Text(text.replace('_', " ")))
}

/// `a, b and c`, or three of them and how many there are besides.
fn listed(names: &[&str]) -> Want {
    match names {
        [] => Want::Unknown,
        [one] => Want::text(one),
        [first @ .., last] if names.len() <= 4 => {
            Want::text(&format!("{} and {last}", first.join(", ")))
        }
        names => Want::text(&format!("{} and {} others", names[..3].join(", "), names.len() - 3)),
    }
}

/// The evidence that speaks most for the cause of an incident: its beginning.
fn why(body: &Value) -> Want {
    let evidence = body["cause"]["evidence"].as_array().expect("a list");
    let weight = |one: &&Value| one["weight"].as_f64().expect("a number");
    let Some(most) = evidence.iter().max_by(|a, b| weight(a).total_cmp(&weight(b))) else {
        return Want::Unknown;
    };
    let text = most["text"].as_str().expect("words");
    let first: String = text.chars().take(120).collect();
    let rest = if first.len() < text.len() { "…" } else { "" };
    Want::text(&format!("{}{rest}", if rest.is_empty() { &first } else { first.trim_end() }))
}

/// A server's minutes and samples of stolen time.
type Stolen<'a> = (&'a str, Minutes, Vec<f64>);

/// One fleet's outages.
struct Outages<'a> {
    rows: &'a Rows,
    look: &'a Look<'a>,
    within: Range<i64>,
    sites: Vec<Lost>,
}

impl<'a> Outages<'a> {
    fn new(rows: &'a Rows, look: &'a Look<'a>) -> Self {
        let within = look.hours.start / 60..look.hours.end / 60;
        let mut this = Self { rows, look, within, sites: Vec::new() };
        for (id, known) in &rows.sites {
            this.sites.push(this.lost(*id, known));
        }
        this.sites.retain(|site| site.n > 0);
        this
    }

    fn lost(&self, id: i64, known: &Known) -> Lost {
        let key = (known.server.clone(), known.name.clone());
        let sent = &self.look.truth.sites[&key];
        let spells: Vec<_> = self.rows.spells.iter().filter(|(_, site, ..)| *site == id).collect();
        let hours: Vec<i64> = sent
            .counts
            .iter()
            .filter(|(at, status, _)| self.look.hours.contains(at) && *status < 1000)
            .map(|(at, ..)| at.div_euclid(HOUR) * 60)
            .collect();
        // Spells that do not reach into the report say nothing of it.
        let reach = |(.., from, to): &&&(String, i64, i64, i64)| {
            from.div_euclid(60_000) < self.within.end && *to >= self.within.start * 60_000
        };
        let spells: Vec<_> = spells.iter().filter(reach).collect();
        let first = spells.iter().map(|(.., from, _)| from.div_euclid(60_000));
        let begin =
            first.chain(hours.iter().copied()).chain([known.since.div_euclid(60_000)]).min();
        let up = |ms: i64| (ms + 59_999).div_euclid(60_000);
        let last = spells.iter().map(|(.., to)| up(*to));
        let end = last.chain(hours.iter().map(|hour| hour + 60)).chain([up(known.heard)]).max();
        let begin = begin.unwrap_or(0).max(self.within.start);
        let existed = begin..end.unwrap_or(0).min(self.within.end);
        let mut lost = Lost {
            server: known.server.clone(),
            name: known.name.clone(),
            owner: sent.owner.clone(),
            n: (existed.end - existed.start).max(0),
            ..Lost::default()
        };
        for (incident, _, from, to) in spells {
            let set = minutes(*from, *to, &existed);
            let root = self.rows.root(incident);
            if set.is_empty() {
                continue;
            }
            lost.all.extend(&set);
            if self.rows.body(root)["kind"] != "slow_burn" {
                lost.hard.extend(&set);
            }
            lost.by_incident.entry(root.to_owned()).or_default().extend(&set);
        }
        lost
    }

    /// Incidents that somebody of the report was inside of.
    fn incidents(&self) -> BTreeMap<&str, (BTreeSet<&str>, Vec<&Lost>)> {
        let mut all: BTreeMap<&str, (BTreeSet<&str>, Vec<&Lost>)> = BTreeMap::new();
        for site in &self.sites {
            for id in site.by_incident.keys() {
                let of = all.entry(id).or_default();
                of.0.insert(&site.server);
                of.1.push(site);
            }
        }
        for (id, server, from, to) in &self.rows.down {
            if !minutes(*from, *to, &self.within).is_empty() {
                all.entry(self.rows.root(id)).or_default().0.insert(server);
            }
        }
        all
    }

    fn totals(&self) -> Vec<Row> {
        let sum = Sum::of(self.sites.iter());
        let mut row = Row::new(&[("scope", "all sites")]);
        sum.put(&mut row);
        row.put("sites", Want::exactly(self.sites.len() as f64));
        row.put("incidents", Want::exactly(self.incidents().len() as f64));
        row.put("objective_ratio", Want::exactly(SLO));
        row.put("slow_minutes", Want::exactly(sum.slow));
        row.put("budget_minutes", Want::exactly((1.0 - SLO) * sum.n));
        vec![row]
    }

    fn sum_of(&self, site: &Lost, is: impl Fn(u32) -> bool) -> f64 {
        let key = (site.server.clone(), site.name.clone());
        self.look.truth.sites[&key].sum(&self.look.hours, is) as f64
    }

    fn n_errors(&self, site: &Lost) -> f64 {
        self.sum_of(site, |status| matches!(status, 502 | 504 | 1000))
    }

    fn bad_minutes(&self, site: &Lost) -> f64 {
        let key = (site.server.clone(), site.name.clone());
        self.look.truth.sites[&key].bad_minutes(&self.look.hours).len() as f64
    }

    fn of_sites(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for site in &self.sites {
            let mut row = Row::new(&[("site", &site.name), ("server", &site.server)]);
            let sum = Sum::of([site].into_iter());
            sum.put(&mut row);
            row.put("owner", Want::text(&site.owner));
            row.put("slow_minutes", Want::exactly(sum.slow));
            let mut longest = 0;
            let mut run = 0;
            for minute in &site.all {
                run = if site.all.contains(&(minute - 1)) { run + 1 } else { 1 };
                longest = longest.max(run);
            }
            row.put("longest_minutes", Want::exactly(f64::from(longest)));
            row.put("incidents", Want::exactly(site.by_incident.len() as f64));
            row.put("requests", Want::exactly(self.sum_of(site, |status| status < 1000)));
            row.put("gateway_errors", Want::exactly(self.n_errors(site)));
            row.put("bad_minutes", Want::exactly(self.bad_minutes(site)));
            row.put("crawler_errors", Want::exactly(self.sum_of(site, |status| status == 1002)));
            rows.push(row);
        }
        rows
    }

    fn owners(&self) -> Vec<Row> {
        let mut owners: BTreeMap<&str, Vec<&Lost>> = BTreeMap::new();
        for site in &self.sites {
            owners.entry(&site.owner).or_default().push(site);
        }
        let mut rows = Vec::new();
        for (owner, sites) in owners {
            let mut row = Row::new(&[("owner", owner)]);
            let sum = Sum::of(sites.iter().copied());
            sum.put(&mut row);
            let servers: BTreeSet<&str> = sites.iter().map(|site| site.server.as_str()).collect();
            row.put("servers", Want::exactly(servers.len() as f64));
            row.put("sites", Want::exactly(sites.len() as f64));
            row.put("any_minutes", Want::exactly(sum.any.len() as f64));
            let rank = |site: &&&Lost| (site.all.len(), self.n_errors(site) as u64);
            let most = sites.iter().map(|site| rank(&site)).max();
            let mut worst: Vec<&str> = sites
                .iter()
                .filter(|site| most == Some(rank(site)) && !site.all.is_empty())
                .map(|site| site.name.as_str())
                .collect();
            worst.sort_unstable();
            row.put("worst_site", worst.first().map_or(Want::Unknown, |name| Want::text(name)));
            let seen = sites.iter().map(|site| self.sum_of(site, |status| status == 1002));
            row.put("crawler_errors", Want::exactly(seen.sum()));
            rows.push(row);
        }
        rows
    }

    fn servers(&self) -> Vec<Row> {
        let incidents = self.incidents();
        let mut rows = Vec::new();
        for server in self.look.labels.keys() {
            let own = || self.sites.iter().filter(|site| site.server == *server);
            let mut row = Row::new(&[("server", server)]);
            let sum = Sum::of(own());
            sum.put(&mut row);
            row.put("sites", Want::exactly(own().count() as f64));
            row.put("any_minutes", Want::exactly(sum.any.len() as f64));
            let n = incidents.values().filter(|(servers, _)| servers.contains(&**server)).count();
            row.put("incidents", Want::exactly(n as f64));
            let mut silent = Set::new();
            for (id, of, from, to) in &self.rows.down {
                if of == server && self.rows.body(self.rows.root(id))["kind"] == "silence" {
                    silent.extend(minutes(*from, *to, &self.within));
                }
            }
            row.put("silent_minutes", Want::exactly(silent.len() as f64));
            rows.push(row);
        }
        rows
    }

    fn of_incidents(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (id, (_, sites)) in self.incidents() {
            let body = self.rows.body(id);
            let mut row = Row::new(&[("incident", id)]);
            let time = |key: &str| body[key].as_str().map(str::parse::<jiff::Timestamp>);
            let ms = |key| time(key).map(|at| at.expect("RFC 3339").as_millisecond());
            let (from, to) = (ms("started_at").expect("it began"), ms("resolved_at"));
            let to = to.unwrap_or(self.within.end * 60_000);
            row.put("started", Want::text(body["started_at"].as_str().expect("a time")));
            row.put("ended", body["resolved_at"].as_str().map_or(Want::Unknown, Want::text));
            row.put("lasted_seconds", Want::exactly((to - from) as f64 / 1000.0));
            row.put("kind", words(&body["kind"]));
            row.put("cause", words(&body["cause"]["class"]));
            row.put("confidence_ratio", Want::maybe(body["cause"]["confidence"].as_f64()));
            row.put("sites", Want::exactly(sites.len() as f64));
            let lost: usize = sites.iter().map(|site| site.by_incident[id].len()).sum();
            row.put("lost_minutes", Want::exactly(lost as f64));
            let n = body["affected"]["n_gateway_errors"].as_f64();
            row.put("gateway_errors", Want::maybe(n));
            let late = body["retroactive"].as_bool().is_some_and(|is_late| is_late);
            let late = if late { " (found in data that came late)" } else { "" };
            let title = body["title"].as_str().expect("words");
            row.put("title", Want::text(&format!("{title}{late}")));
            row.put("severity", words(&body["severity"]));
            let owners: BTreeSet<&str> = sites.iter().map(|site| site.owner.as_str()).collect();
            row.put("customers", listed(&owners.into_iter().collect::<Vec<_>>()));
            row.put("why", why(body));
            rows.push(row);
        }
        rows
    }

    fn causes(&self) -> Vec<Row> {
        let mut causes: BTreeMap<String, [f64; 3]> = BTreeMap::new();
        for (id, (_, sites)) in self.incidents() {
            let body = self.rows.body(id);
            let cause = body["cause"]["class"].as_str().expect("a word").replace('_', " ");
            let cost = causes.entry(cause).or_default();
            cost[0] += 1.0;
            cost[1] += sites.iter().map(|site| site.by_incident[id].len() as f64).sum::<f64>();
            cost[2] += body["affected"]["n_gateway_errors"].as_f64().expect("a number");
        }
        let all: f64 = causes.values().map(|cost| cost[1]).sum();
        let mut rows = Vec::new();
        for (cause, [n, lost, errors]) in &causes {
            let mut row = Row::new(&[("cause", cause)]);
            row.put("incidents", Want::exactly(*n));
            row.put("lost_minutes", Want::exactly(*lost));
            row.put("lost_ratio", Want::maybe((all > 0.0).then(|| lost / all)));
            row.put("gateway_errors", Want::exactly(*errors));
            rows.push(row);
        }
        rows
    }

    fn crawlers(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for site in &self.sites {
            let n = self.sum_of(site, |status| status == 1002);
            if n == 0.0 {
                continue;
            }
            let mut row = Row::new(&[("site", &site.name), ("server", &site.server)]);
            row.put("owner", Want::text(&site.owner));
            row.put("crawler_errors", Want::exactly(n));
            row.put("crawler_ratio", Want::exactly(n / self.n_errors(site).max(n)));
            rows.push(row);
        }
        rows
    }

    fn noisy_sites(&self, told: &[Value]) -> Vec<Row> {
        let all: f64 = self.sites.iter().map(|site| self.n_errors(site)).sum();
        let mut so_far = 0.0;
        let mut rows = Vec::new();
        // In the order that is told, which must be that of errors.
        let mut last = f64::INFINITY;
        for line in told {
            let own = self.sites.iter().find(|site| {
                line["site"] == site.name.as_str() && line["server"] == site.server.as_str()
            });
            let Some(site) = own else { continue };
            let (n, requests) = (self.n_errors(site), self.sum_of(site, |status| status < 1000));
            assert!(n > 0.0 && n <= last, "{line} stands in the wrong place");
            (so_far, last) = (so_far + n, n);
            let mut row = Row::new(&[("site", &site.name), ("server", &site.server)]);
            row.put("owner", Want::text(&site.owner));
            row.put("gateway_errors", Want::exactly(n));
            row.put("errors_ratio", Want::exactly(n / all));
            row.put("so_far_ratio", Want::exactly(so_far / all));
            row.put("failed_ratio", Want::maybe((requests > 0.0).then(|| n / requests)));
            row.put("bad_minutes", Want::exactly(self.bad_minutes(site)));
            row.put("incidents", Want::exactly(site.by_incident.len() as f64));
            rows.push(row);
        }
        let noisy = self.sites.iter().filter(|site| self.n_errors(site) > 0.0).count();
        assert_eq!(rows.len(), noisy.min(50), "sites with errors are listed");
        rows
    }

    fn hypervisors(&self) -> Vec<Row> {
        let mut all: BTreeMap<&str, Vec<Stolen<'_>>> = BTreeMap::new();
        for (server, labels) in self.look.labels {
            let hours = &self.look.hours;
            let of = self.look.truth.minutes(server, "system.cpu.steal", "", hours);
            let samples = self.look.truth.samples(server, "system.cpu.steal", "", hours);
            if of.n() > 0 {
                let name = labels.get("hypervisor").map_or("not known", String::as_str);
                let samples = samples.into_iter().map(|(_, value)| value).collect();
                all.entry(name).or_default().push((server, of, samples));
            }
        }
        let mut rows = Vec::new();
        for (name, servers) in all {
            let mut row = Row::new(&[("hypervisor", name)]);
            let together =
                servers.iter().fold(Minutes::default(), |all, (_, minutes, _)| all.with(minutes));
            row.put("servers", Want::exactly(servers.len() as f64));
            row.put("above_ratio", together.share_above(STEAL));
            let samples: Vec<f64> = servers.iter().flat_map(|(.., all)| all.clone()).collect();
            row.put(
                "mean_ratio",
                Want::exactly(samples.iter().sum::<f64>() / samples.len() as f64),
            );
            row.put("p95_ratio", together.quantile(0.95));
            row.put("max_ratio", together.max());
            row.put("minutes", Want::exactly(together.n() as f64));
            let worst = servers.iter().map(|(_, minutes, _)| minutes.share_above(STEAL));
            let worst = worst.fold(Want::exactly(0.0), |all, one| match (all, one) {
                (Want::Between(a, b), Want::Between(c, d)) => Want::Between(a.max(c), b.max(d)),
                (all, _) => all,
            });
            let best = match &worst {
                Want::Between(least, _) => *least,
                _ => 0.0,
            };
            let may = |minutes: &Minutes| match minutes.share_above(STEAL) {
                Want::Between(_, most) => most >= best,
                _ => false,
            };
            let may = servers.iter().filter(|(.., minutes, _)| may(minutes));
            let may = may.map(|(server, ..)| server.to_string()).collect();
            row.put("worst_server", Want::OneOf(may));
            row.put("worst_above_ratio", worst);
            rows.push(row);
        }
        rows
    }

    fn repeated(&self) -> Vec<Row> {
        let mut by_key: BTreeMap<&str, Vec<(&str, &Value)>> = BTreeMap::new();
        for id in self.incidents().into_keys() {
            let (key, body) = &self.rows.incidents[id];
            by_key.entry(key).or_default().push((id, body));
        }
        let mut rows = Vec::new();
        for (key, mut all) in by_key.into_iter().filter(|(_, all)| all.len() > 1) {
            let place = key.splitn(3, ':').skip(1).collect::<Vec<_>>().join(" ");
            all.sort_by_key(|(_, body)| body["started_at"].as_str());
            let (first, newest) = (all[0].1, all[all.len() - 1].1);
            let kind = newest["kind"].as_str().expect("a word").replace('_', " ");
            let mut row = Row::new(&[("place", &place), ("kind", &kind)]);
            row.put("incidents", Want::exactly(all.len() as f64));
            let mut open = Set::new();
            for (_, body) in &all {
                let ms = |key: &str| {
                    let at = body[key].as_str().map(str::parse::<jiff::Timestamp>);
                    at.map_or(i64::MAX / 2, |at| at.expect("RFC 3339").as_millisecond())
                };
                open.extend(minutes(ms("started_at"), ms("resolved_at"), &self.within));
            }
            row.put("minutes", Want::exactly(open.len() as f64));
            row.put("first", Want::text(first["started_at"].as_str().expect("a time")));
            row.put("newest", Want::text(newest["started_at"].as_str().expect("a time")));
            row.put("title", Want::text(newest["title"].as_str().expect("words")));
            let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
            for (_, body) in &all {
                *causes.entry(body["cause"]["class"].as_str().expect("a word")).or_default() += 1;
            }
            let most = causes.values().copied().max();
            let most = causes.iter().filter(|(_, n)| Some(**n) == most);
            let most = most.map(|(cause, _)| cause.replace('_', " ")).collect();
            row.put("cause", Want::OneOf(most));
            rows.push(row);
        }
        rows
    }
}

/// Compares a whole outage report; returns how many figures were compared.
pub(super) fn check_outage(
    report: &Value,
    rows: &Rows,
    look: &Look<'_>,
    wrong: &mut Wrong,
) -> usize {
    let outages = Outages::new(rows, look);
    let mut n = 0;
    for (key, table) in tables(report) {
        let at = format!("outage.{key} of {} hours", (look.hours.end - look.hours.start) / HOUR);
        n += wrong.look(&at, || match key.as_str() {
            "totals" => table.check(&outages.totals(), &[]),
            "incidents" => table.check(&outages.of_incidents(), &[]),
            "owners" => table.check(&outages.owners(), &[]),
            "sites" => table.check(&outages.of_sites(), &[]),
            "servers" => table.check(&outages.servers(), &[]),
            "causes" => table.check(&outages.causes(), &[]),
            "crawlers" => table.check(&outages.crawlers(), &[]),
            other => panic!("nobody computes the table {other:?} anew: add it here"),
        });
    }
    n
}

/// The same of a noise report.
pub(super) fn check_noise(
    report: &Value,
    rows: &Rows,
    look: &Look<'_>,
    wrong: &mut Wrong,
) -> usize {
    let outages = Outages::new(rows, look);
    let mut n = 0;
    for (key, table) in tables(report) {
        let at = format!("noise.{key} of {} hours", (look.hours.end - look.hours.start) / HOUR);
        n += wrong.look(&at, || match key.as_str() {
            "sites" => table.check(&outages.noisy_sites(&table.rows), &[]),
            "hypervisors" => table.check(&outages.hypervisors(), &[]),
            "repeated" => table.check(&outages.repeated(), &[]),
            "parts" => table.check(&look.truth.parts(&look.hours), &[]),
            "services" => table.check(&look.truth.services(&look.hours), &[]),
            other => panic!("nobody computes the table {other:?} anew: add it here"),
        });
    }
    n
}
