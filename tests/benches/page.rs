//! Row A7: how long after the first 502 somebody is paged.
//!
//! A real agent discovers a server whose logs are written here, as nginx would, at five requests a second
//! to each of twelve sites; a real collector tells a receiver on loopback. The only pool of the server
//! dies at any time of a second, again and again. What counts is when the first line with a 502 was
//! written, and when the last byte of the message had come.

use std::thread;
use std::time::Duration;

use harness::{FedServer, Fleet, Incident, Traffic, Webhook, eventually, pause};

use crate::generate::Dice;
use crate::measure::quantile;
use crate::table::Row;

const NAME: &str = "web-1";
const POOL: &str = "www";
const N_SITES: usize = 12;
const PER_SECOND: f64 = 5.0;
/// Fleets side by side, each with a collector of its own: an outage takes half a minute until it is over.
const N_FLEETS: u32 = 4;
/// Outages of each.
const ROUNDS: usize = 7;
/// Good answers each site has before the first one.
const PAST: u64 = 50;
const LIMIT: Duration = Duration::from_secs(60);
/// The next outage is another one, not the same once more.
const FORGETS: &str = "[detect]\ncooldown = \"1s\"\n";
/// How long nothing is open before the next outage.
const WELL: Duration = Duration::from_secs(3);

/// Seconds from the first 502 to the incident, and to the page.
struct Round {
    open_s: f64,
    page_s: f64,
}

/// A7: seconds from the first 502 of a pool that died to the incident and to the page.
pub(crate) fn a7() -> Vec<Row> {
    let rounds: Vec<Round> = thread::scope(|scope| {
        let fleets: Vec<_> = (0..N_FLEETS).map(|n| scope.spawn(move || one_fleet(n))).collect();
        let join = |fleet: thread::ScopedJoinHandle<'_, Vec<Round>>| {
            fleet.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        fleets.into_iter().flat_map(join).collect()
    });
    rows(&rounds)
}

/// All outages of one fleet.
fn one_fleet(n: u32) -> Vec<Round> {
    let server = FedServer::new(NAME, &[(POOL, N_SITES)]);
    let webhook = Webhook::start(0);
    let toml = format!("{FORGETS}{}", webhook.toml());
    let fleet = Fleet::builder().batch_interval("10s").toml(&toml);
    let fleet = fleet.agent(server.agent().heartbeat("5s")).start();
    eventually("the agent knows every site", LIMIT, || {
        let status = fleet.agent(NAME).status()?;
        let n = status["n_sites"].as_u64().unwrap_or(0);
        if n >= N_SITES as u64 { Ok(()) } else { Err(status.to_string()) }
    });
    let traffic = Traffic::start(std::slice::from_ref(&server), PER_SECOND);
    eventually("every site has a past", LIMIT, || {
        let stored = fleet.db().requests(NAME);
        let is_old = |site: &String| stored.get(&(site.clone(), 200)).is_some_and(|n| *n >= PAST);
        if server.sites().iter().all(is_old) { Ok(()) } else { Err(format!("{stored:?}")) }
    });
    let mut dice = Dice::new(u64::from(n) + 7);
    pause(Duration::from_secs(6 * u64::from(n))); // so that they do not fail together
    (0..ROUNDS).map(|round| outage(&fleet, &traffic, &webhook, round, &mut dice)).collect()
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let mut pages: Vec<f64> = rounds.iter().map(|round| round.page_s).collect();
    let mut opens: Vec<f64> = rounds.iter().map(|round| round.open_s).collect();
    let what =
        |what: &str| format!("first 502 of a dead pool to {what} ({} outages)", rounds.len());
    vec![
        Row::alone("A7", &what("the page, median"), quantile(&mut pages, 0.5), "s", 1.5),
        Row::alone("A7", &what("the page, p99"), quantile(&mut pages, 0.99), "s", 3.0),
        Row::told("A7", &what("the open incident, median"), quantile(&mut opens, 0.5), "s"),
        Row::told("A7", &what("the open incident, p99"), quantile(&mut opens, 0.99), "s"),
    ]
}

/// The `round`-th outage, from well to well.
fn outage(
    fleet: &Fleet,
    traffic: &Traffic,
    webhook: &Webhook,
    round: usize,
    dice: &mut Dice,
) -> Round {
    pause(Duration::from_millis(u64::from(dice.below(1000))));
    traffic.fail(NAME, POOL);
    let (incident, told_ms) = eventually("somebody is paged", LIMIT, || {
        let opened: Vec<_> = webhook
            .deliveries()
            .into_iter()
            .filter(|delivery| delivery.json()["event"] == "opened")
            .collect();
        let page = opened.get(round).ok_or_else(|| format!("{} pages", opened.len()))?;
        Ok((Incident::from_json(&page.json()["incident"]), page.at_ms))
    });
    let first_ms = traffic.first_failed_ms(NAME).expect("a page comes after a failure");
    assert_eq!(incident.scope(), "server", "{}", incident.json());
    traffic.mend();
    let id = incident.id().to_owned();
    fleet.incident("the outage is over", LIMIT, |i| i.id() == id && !i.is_open());
    pause(WELL);
    let since_s = |at_ms: i64| (at_ms - first_ms) as f64 / 1000.0;
    Round { open_s: since_s(incident.at_ms("/detected_at")), page_s: since_s(told_ms) }
}
