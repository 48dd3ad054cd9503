//! `GET /metrics`: OpenMetrics text about the fleet and about the collector itself. Rendering is pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::error::ApiError;
use crate::clock;
use crate::notify::stats::Counts;
use crate::selfstats::{COMMIT_BUCKETS_MS, DiskUse};
use crate::store::Ledger;
use crate::store::fleet::{self, ServerView};
use crate::store::incidents;
use crate::store::outbox::{self, Owed};
use crate::store::routes::{self, Waiting};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything on the page.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The fleet.
    pub(super) servers: Vec<ServerView>,
    /// Open incidents by severity, without merged ones.
    pub(super) n_open: BTreeMap<String, u64>,
    /// Waiting notifications.
    pub(super) owed: Vec<Owed>,
    /// How each configured route stands, and what became of its messages since the start.
    pub(super) routes: BTreeMap<String, (Waiting, Counts)>,
    /// Notifications by what became of them.
    pub(super) notified: Vec<(&'static str, u64)>,
    /// The collector's own counters: name, meaning, value.
    pub(super) own: Vec<(&'static str, &'static str, u64)>,
    /// Durations of commits: counts by bucket of [`COMMIT_BUCKETS_MS`], sum in seconds.
    pub(super) commits: (Vec<u64>, f64),
    /// Faults of the collector itself: name, meaning, whether it holds.
    pub(super) faults: Vec<(&'static str, &'static str, bool)>,
    /// Levels of the collector itself, its history and disk: name, meaning, value.
    pub(super) gauges: Vec<(&'static str, &'static str, f64)>,
    /// Sites that fail so often that they never open: server, site.
    pub(super) chronic: Arc<[(String, String)]>,
}

/// Answers with the page.
pub(super) async fn show(State(state): State<AppState>) -> Result<Response, ApiError> {
    let now = clock::now();
    let mut counts = state.notify_stats.by_route();
    let names = state.receivers.iter().map(|receiver| receiver.target.route.name.clone());
    let names: Vec<String> = names.collect();
    let facts = state.store.read(move |conn| {
        let filter = incidents::Filter { open: true, n_max: 100_000, ..Default::default() };
        let mut n_open = BTreeMap::from(["critical", "warning", "info"].map(|s| (s.to_owned(), 0)));
        for incident in incidents::list(conn, &filter)? {
            *n_open.entry(incident.severity).or_default() += 1;
        }
        let (servers, owed) = (fleet::list(conn, now)?, outbox::owed(conn)?);
        let mut waiting = routes::waiting(conn)?;
        let route = |name: String| {
            let waiting = waiting.remove(&name).unwrap_or_default();
            let counts = counts.remove(&name).unwrap_or_default();
            (name, (waiting, counts))
        };
        let routes = names.into_iter().map(route).collect();
        let n_dropped = routes::n_dropped(conn)?;
        Ok((Facts { servers, n_open, owed, routes, ..Facts::default() }, n_dropped))
    });
    let (mut facts, n_dropped) = facts.await?;
    let stats = &state.notify_stats;
    facts.notified = vec![
        ("delivered", stats.n_delivered.load(Ordering::Relaxed)),
        ("failed", stats.n_failed.load(Ordering::Relaxed)),
        ("refused", stats.n_refused.load(Ordering::Relaxed)),
        ("expired", stats.n_expired.load(Ordering::Relaxed)),
        ("dropped", n_dropped),
        ("template_failed", stats.n_fallbacks.load(Ordering::Relaxed)),
    ];
    facts.own = state.selfstats.counters();
    facts.commits = state.selfstats.commit_latency.get();
    facts.chronic = state.selfstats.chronic.get();
    add_own(&mut facts, &state);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], render(&facts)).into_response())
}

/// Faults of the collector, its history, backups and disk.
fn add_own(facts: &mut Facts, state: &AppState) {
    let own = &state.selfstats;
    facts.gauges = vec![(
        "collector_sealing_behind_seconds",
        "How long the oldest hour that should be packed has waited; healthy: below 300",
        own.sealing_behind_s.get() as f64,
    )];
    facts.faults = vec![
        (
            "collector_uplink_lost",
            "The collector's own network is gone, so nobody is silent",
            own.uplink_lost.get(),
        ),
        (
            "collector_disk_full",
            "The disk under the database is full, so agents keep their batches",
            own.disk_full.get(),
        ),
    ];
    add_backups(facts, state);
    if let Some(disk) = own.disk_use.get() {
        add_disk(facts, &disk);
    }
}

/// What is damaged, and how the backups stand.
fn add_backups(facts: &mut Facts, state: &AppState) {
    let n_damaged = state.store.quarantine().n();
    facts.faults.push((
        "collector_history_damaged",
        "Packed history is damaged; the rest is served, see /api/v1/health",
        n_damaged > 0,
    ));
    let help = "Places of packed history that are damaged and not served";
    facts.gauges.push(("history_damaged_places", help, n_damaged as f64));
    let Some(backup) = state.store.backups().state() else { return };
    facts.faults.push((
        "collector_backup_failing",
        "The last backup of those made by themselves failed",
        backup.failed_at.is_some(),
    ));
    if let Some(made_at) = backup.made_at {
        let help = "When the newest backup was made of those made by themselves";
        facts.gauges.push(("backup_made_timestamp_seconds", help, made_at.0 as f64 / 1000.0));
    }
}

/// What the data directory takes, and how far back history goes.
fn add_disk(facts: &mut Facts, disk: &DiskUse) {
    facts.faults.push((
        "collector_disk_over",
        "The data directory takes more than disk_bytes_max, or its disk is nearly full, and nothing is left to drop",
        disk.is_over,
    ));
    for (name, help, n_bytes) in [
        ("disk_hot_bytes", "What gatewatch.db takes", disk.hot_bytes),
        ("disk_blocks_bytes", "What day files of samples take", disk.blocks_bytes),
        ("disk_rollup_bytes", "What month files of hourly sums take", disk.rollup_bytes),
        ("disk_used_bytes", "What everything in the data directory takes", disk.all_bytes),
        ("disk_limit_bytes", "What it may take: disk_bytes_max", disk.bytes_max),
        ("disk_free_bytes", "What is free on its disk", disk.free_bytes),
    ] {
        facts.gauges.push((name, help, n_bytes as f64));
    }
    for (name, help, from) in [
        ("history_raw_from_timestamp_seconds", "The oldest hour of packed samples", disk.raw_from),
        (
            "history_rollup_from_timestamp_seconds",
            "The oldest day of hourly sums",
            disk.rollup_from,
        ),
    ] {
        facts.gauges.extend(from.map(|at| (name, help, at.0 as f64 / 1000.0)));
    }
}

/// The page as text.
#[must_use]
pub(super) fn render(facts: &Facts) -> String {
    let mut page = Page::default();
    page.family("build", "info", "Release of this collector");
    page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    page.family("servers", "gauge", "Servers of the fleet by state");
    for state in ["up", "silent", "goodbye", "revoked"] {
        let n = facts.servers.iter().filter(|server| server.state == state).count();
        page.sample("servers", &[("state", state)], n as f64);
    }
    page.family("incidents_open", "gauge", "Open incidents by severity, merged ones left out");
    for (severity, n) in &facts.n_open {
        page.sample("incidents_open", &[("severity", severity)], *n as f64);
    }
    page.servers(&facts.servers);
    page.ledgers(&facts.servers);
    page.family("site_chronic", "gauge", "Sites that fail so often that they open no incident");
    for (server, site) in facts.chronic.iter() {
        page.sample("site_chronic", &[("server", server), ("site", site)], 1.0);
    }
    page.family("outbox_messages", "gauge", "Notifications waiting by route");
    for owed in &facts.owed {
        page.sample("outbox_messages", &[("route", &owed.route)], owed.n as f64);
    }
    page.family("notifications", "counter", "Notifications by what became of them; failed: tries");
    for (result, n) in &facts.notified {
        page.sample("notifications_total", &[("result", result)], *n as f64);
    }
    page.routes(&facts.routes);
    for (name, help, holds) in &facts.faults {
        page.family(name, "gauge", help);
        page.sample(name, &[], f64::from(u8::from(*holds)));
    }
    for (name, help, value) in &facts.gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], *value);
    }
    for (name, help, n) in &facts.own {
        page.family(name, "counter", help);
        page.sample(&format!("{name}_total"), &[], *n as f64);
    }
    page.commits(&facts.commits);
    page.0.push_str("# EOF\n");
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn servers(&mut self, servers: &[ServerView]) {
        type Value = fn(&ServerView) -> Option<f64>;
        let gauges: [(&str, &str, Value); 5] = [
            ("server_up", "Whether the agent is connected", |s| {
                Some(f64::from(u8::from(s.state == "up")))
            }),
            ("server_last_seen_timestamp_seconds", "When the agent was last heard", |s| {
                s.last_seen_at.map(|at| at.0 as f64 / 1000.0)
            }),
            ("server_clock_offset_seconds", "The server's clock minus the collector's", |s| {
                s.clock_offset_ms.map(|ms| ms as f64 / 1000.0)
            }),
            ("server_spool_bytes", "Bytes the agent still has to send", |s| {
                s.spool_bytes.map(|n| n as f64)
            }),
            ("server_sites", "Sites known on the server", |s| Some(s.n_sites as f64)),
        ];
        for (name, help, value) in gauges {
            self.family(name, "gauge", help);
            for server in servers {
                if let Some(value) = value(server) {
                    self.sample(name, &[("server", &server.server)], value);
                }
            }
        }
        self.family("loss", "counter", "The loss ledger: what a server lost or refused, by kind");
        for server in servers {
            for (kind, n) in &server.loss {
                self.sample("loss_total", &[("server", &server.server), ("kind", kind)], *n as f64);
            }
        }
    }

    /// What became of every log line and byte.
    fn ledgers(&mut self, servers: &[ServerView]) {
        type Fates = fn(&Ledger) -> [u64; 3];
        let fates: [(&str, &str, Fates); 2] = [
            ("log_lines", "Log lines of a server by what became of them", |l| {
                [l.n_lines_counted, l.n_lines_rejected, l.n_lines_lost]
            }),
            ("log_bytes", "Log bytes of a server by what became of them", |l| {
                [l.n_bytes_counted, l.n_bytes_rejected, l.n_bytes_lost]
            }),
        ];
        for (name, help, numbers) in fates {
            self.family(name, "counter", help);
            for server in servers {
                let fates = ["counted", "rejected", "lost"].into_iter();
                for (fate, n) in fates.zip(numbers(&server.ledger.parts)) {
                    let labels = [("server", server.server.as_str()), ("fate", fate)];
                    self.sample(&format!("{name}_total"), &labels, n as f64);
                }
            }
        }
    }

    fn routes(&mut self, routes: &BTreeMap<String, (Waiting, Counts)>) {
        type Value = fn(&Waiting) -> u64;
        type Count = fn(&Counts) -> u64;
        let gauges: [(&str, &str, Value); 3] = [
            ("notify_owed", "Messages a configured route has to deliver", |s| s.n_owed),
            ("notify_retrying", "Of these, those that were tried in vain", |s| s.n_tried),
            ("notify_held", "Pages kept back from a route: silence, hours, escalation", |s| {
                s.n_held
            }),
        ];
        for (name, help, value) in gauges {
            self.family(name, "gauge", help);
            for (route, (waiting, _)) in routes {
                self.sample(name, &[("route", route)], value(waiting) as f64);
            }
        }
        let results: [(&str, Count); 3] = [
            ("delivered", |s| s.n_delivered),
            ("refused", |s| s.n_refused),
            ("expired", |s| s.n_expired),
        ];
        self.family("notify_messages", "counter", "Messages of a route by how they ended");
        for (route, (_, counts)) in routes {
            for (result, value) in results {
                let labels = [("route", route.as_str()), ("result", result)];
                self.sample("notify_messages_total", &labels, value(counts) as f64);
            }
        }
    }

    fn commits(&mut self, (counts, sum): &(Vec<u64>, f64)) {
        let name = "commit_duration_seconds";
        self.family(name, "histogram", "Time from the first batch of a group to its commit");
        let mut n = 0;
        for (ix, count) in counts.iter().enumerate() {
            n += count;
            let bound = COMMIT_BUCKETS_MS.get(ix).map(|ms| (*ms as f64 / 1000.0).to_string());
            let bound = bound.as_deref().unwrap_or("+Inf");
            self.sample(&format!("{name}_bucket"), &[("le", bound)], n as f64);
        }
        self.sample(&format!("{name}_sum"), &[], *sum);
        self.sample(&format!("{name}_count"), &[], n as f64);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# TYPE gatewatch_{name} {kind}"));
        self.line(format_args!("# HELP gatewatch_{name} {help}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
        if labels.is_empty() {
            self.line(format_args!("gatewatch_{name} {value}"));
        } else {
            self.line(format_args!("gatewatch_{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a String cannot fail");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::UnixMillis;

    fn server() -> ServerView {
        ServerView {
            server: "web-1".into(),
            labels: BTreeMap::new(),
            version: Some("0.1.0".into()),
            state: "up".into(),
            last_seen_at: Some(UnixMillis(1_795_176_067_500)),
            clock_offset_ms: Some(-1500),
            spool_bytes: None,
            n_sites: 12,
            loss: BTreeMap::from([("n_lines_lost".into(), 7), ("n_bytes_lost".into(), 0)]),
            ledger: Ledger { n_lines_lost: 7, n_bytes_counted: 99, ..Ledger::default() }.into(),
        }
    }

    #[test]
    fn the_page_is_openmetrics_with_the_loss_ledger_of_each_server() {
        let mut facts = Facts {
            servers: vec![server()],
            n_open: BTreeMap::from([("critical".into(), 1)]),
            owed: vec![Owed { route: "a\"b".into(), n: 2, due: UnixMillis(0) }],
            routes: BTreeMap::from([
                ("mail".into(), <(Waiting, Counts)>::default()),
                (
                    "oncall".into(),
                    (
                        Waiting { n_owed: 2, ..Waiting::default() },
                        Counts { n_refused: 1, ..Counts::default() },
                    ),
                ),
            ]),
            notified: vec![("delivered", 3)],
            own: vec![("batches", "Batches.", 9)],
            faults: vec![("collector_uplink_lost", "Gone.", true)],
            gauges: vec![
                ("collector_sealing_behind_seconds", "How long.", 7.0),
                ("history_damaged_places", "Damaged.", 2.0),
            ],
            chronic: [("web-1".to_owned(), "bad.example".to_owned())].into(),
            commits: (vec![1, 2, 0, 0, 0, 0, 0, 0, 0, 4], 1.5),
        };
        let disk = DiskUse {
            blocks_bytes: 7,
            raw_from: Some(UnixMillis(3_600_000)),
            ..DiskUse::default()
        };
        add_disk(&mut facts, &disk);
        let page = render(&facts);
        for line in [
            "gatewatch_disk_blocks_bytes 7",
            "gatewatch_history_raw_from_timestamp_seconds 3600",
            "gatewatch_collector_disk_over 0",
            "gatewatch_servers{state=\"up\"} 1",
            "gatewatch_servers{state=\"silent\"} 0",
            "gatewatch_incidents_open{severity=\"critical\"} 1",
            "gatewatch_server_up{server=\"web-1\"} 1",
            "gatewatch_server_last_seen_timestamp_seconds{server=\"web-1\"} 1795176067.5",
            "gatewatch_server_clock_offset_seconds{server=\"web-1\"} -1.5",
            "gatewatch_loss_total{server=\"web-1\",kind=\"n_lines_lost\"} 7",
            "gatewatch_log_lines_total{server=\"web-1\",fate=\"lost\"} 7",
            "gatewatch_log_bytes_total{server=\"web-1\",fate=\"counted\"} 99",
            "gatewatch_site_chronic{server=\"web-1\",site=\"bad.example\"} 1",
            "gatewatch_outbox_messages{route=\"a\\\"b\"} 2",
            "gatewatch_notifications_total{result=\"delivered\"} 3",
            "gatewatch_notify_owed{route=\"mail\"} 0",
            "gatewatch_notify_owed{route=\"oncall\"} 2",
            "gatewatch_notify_held{route=\"oncall\"} 0",
            "gatewatch_notify_messages_total{route=\"oncall\",result=\"refused\"} 1",
            "gatewatch_notify_messages_total{route=\"mail\",result=\"delivered\"} 0",
            "# TYPE gatewatch_collector_uplink_lost gauge",
            "gatewatch_collector_uplink_lost 1",
            "gatewatch_collector_sealing_behind_seconds 7",
            "gatewatch_history_damaged_places 2",
            "# TYPE gatewatch_batches counter",
            "gatewatch_batches_total 9",
            "gatewatch_commit_duration_seconds_bucket{le=\"0.002\"} 3",
            "gatewatch_commit_duration_seconds_bucket{le=\"+Inf\"} 7",
            "gatewatch_commit_duration_seconds_count 7",
            "gatewatch_commit_duration_seconds_sum 1.5",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n") && !page.contains("spool_bytes{"));
    }
}
