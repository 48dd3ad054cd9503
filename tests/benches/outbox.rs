//! Row N1: from a decision of the detector to the receivers, for a thousand incidents at once and five
//! routes, one of them dead: it takes every connection and never answers.
//!
//! A real collector runs; what its detector would have decided is written into its database. The
//! reference is the same, in the same run, in turns, with a fifth receiver that answers. What counts is
//! when the last byte of each message had come to the other four.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use harness::{Fleet, Webhook, eventually, now_ms};
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

use crate::measure::quantile;
use crate::table::{Row, Target, number};

const N_INCIDENTS: usize = 1000;
const N_LIVE: usize = 4;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);
/// No route waits for its rate.
const LINES: &str = "messages_per_minute_max = 60000";

/// What the four live routes saw of all rounds.
#[derive(Default)]
struct Seen {
    delays_s: Vec<f64>,
    per_second: Vec<f64>,
}

/// Messages a second, and the delay of each, of the live routes beside a dead one.
pub(crate) fn n1() -> Result<Vec<Row>, String> {
    let (mut ours, mut theirs) = (Seen::default(), Seen::default());
    for _ in 0..ROUNDS {
        round(false, &mut theirs)?;
        round(true, &mut ours)?;
    }
    let mut row = |what: &str, of: fn(&mut Seen) -> f64, unit, target| {
        let (ours, theirs) = (of(&mut ours), of(&mut theirs));
        Row {
            id: "N1",
            what: format!(
                "{N_INCIDENTS} incidents to {N_LIVE} receivers beside a dead one: {what}"
            ),
            reference: "the same with none dead".to_owned(),
            ours: number(ours, unit),
            theirs: number(theirs, unit),
            figure: Ok((ours / theirs, "x")),
            target,
        }
    };
    Ok(vec![
        row("messages", |seen| quantile(&mut seen.per_second, 0.5), "/s", Target::AtLeast(0.8)),
        row("delay, median", |seen| quantile(&mut seen.delays_s, 0.5), "s", Target::None),
        row("delay, p99", |seen| quantile(&mut seen.delays_s, 0.99), "s", Target::None),
    ])
}

fn round(is_dead: bool, seen: &mut Seen) -> Result<(), String> {
    let live: Vec<Webhook> = (0..N_LIVE).map(|_| Webhook::start(0)).collect();
    // The fifth one answers, or nobody ever accepts what the kernel took for it.
    let (fifth, hole) = (Webhook::start(0), TcpListener::bind("127.0.0.1:0"));
    let hole = hole.and_then(|hole| Ok((hole.local_addr()?, hole))).map_err(|e| e.to_string())?;
    let mut toml: String =
        live.iter().enumerate().map(|(n, by)| by.route(&format!("live-{n}"), LINES)).collect();
    let last = fifth.route("last", LINES);
    toml.push_str(&if is_dead {
        last.replace(&fifth.url(), &format!("http://{}/", hole.0))
    } else {
        last
    });
    let fleet = Fleet::builder().toml(&toml).start();
    let due = decide(&fleet.data_dir().join("gatewatch.db"))?;
    eventually("every live receiver has every page", LIMIT, || {
        let n: Vec<usize> = live.iter().map(|by| by.deliveries().len()).collect();
        if n.iter().all(|n| *n >= N_INCIDENTS) { Ok(()) } else { Err(format!("{n:?}")) }
    });
    let came = live.iter().flat_map(Webhook::deliveries).map(|delivery| delivery.at_ms - due);
    let came: Vec<f64> = came.map(|ms| ms as f64 / 1000.0).collect();
    let last = came.iter().copied().fold(0.0, f64::max);
    seen.per_second.push(came.len() as f64 / last);
    seen.delays_s.extend(came);
    Ok(())
}

/// Puts the incidents and their pages down, as the detector would, all due now; returns when, in ms.
fn decide(database: &Path) -> Result<i64, String> {
    let at = format!("{:.3}", jiff::Timestamp::now());
    let bodies = (0..N_INCIDENTS).map(|n| incident(n, &at));
    let bodies: Vec<Value> = bodies.collect();
    let write = || -> rusqlite::Result<i64> {
        let mut db = Connection::open(database)?;
        db.busy_timeout(LIMIT)?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let due = now_ms();
        for body in &bodies {
            let (id, text) = (body["id"].as_str(), body.to_string());
            tx.execute(
                "INSERT INTO incident(id, key, opened, rev, body) VALUES(?1, ?1, ?2, 1, ?3)",
                params![id, due, text],
            )?;
            tx.execute(
                "INSERT INTO page(incident, rev, event, due) VALUES(?1, 1, 'opened', ?2)",
                params![id, due],
            )?;
        }
        tx.commit()?;
        Ok(due)
    };
    write().map_err(|e| e.to_string())
}

/// A server of its own with forty sites.
fn incident(n: usize, at: &str) -> Value {
    let server = format!("web-{n}");
    let sites: Vec<String> = (0..40).map(|site| format!("shop{site}.{server}.example")).collect();
    let evidence = json!({"kind": "log", "text": "connect() failed (111: Connection refused)",
        "at": at, "server": server, "weight": 4.8});
    json!({
        "id": format!("01{n:024}"), "kind": "gateway_errors", "state": "open",
        "severity": "critical", "scope": "server",
        "where": {"server": server, "pool": "www", "label": null, "value": null, "labels": null,
            "members": [server], "sites": sites},
        "title": format!("40 of 40 sites on {server} fail with 502: PHP-FPM pool www is down"),
        "started_at": at, "detected_at": at, "resolved_at": null, "updated_at": at,
        "retroactive": false,
        "affected": {"n_sites": 40, "n_sites_active": 40, "n_servers": 1, "n_requests": 400,
            "n_gateway_errors": 400, "n_502": 400, "n_503": 0, "n_504": 0, "n_crawler": 0},
        "cause": {"class": "service_down", "confidence": 0.6, "evidence": [evidence],
            "alternatives": []},
        "change": null, "actions": [{"text": "see why it is down",
            "command": "systemctl status php8.2-fpm.service"}],
        "parent": null, "children": [], "acked_by": null, "silenced": false,
        "timeline": [{"at": at, "what": "opened"}],
    })
}
