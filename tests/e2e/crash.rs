//! kill -9 in the middle of an outage: nothing is lost, nothing is counted or told twice.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Fleet, Webhook, eventually, pause};

use crate::farm::{Farm, LIMIT};

#[test]
fn kill_9_of_agent_and_collector_in_an_outage_loses_nothing_and_repeats_nothing() {
    let webhook = Webhook::start(0);
    let dir = harness::Root::new();
    let secret = dir.secret("webhook.key", "correct horse battery staple");
    let toml = format!(
        "[[notify]]\nkind = \"webhook\"\nurl = \"{}\"\nsecret_file = \"{}\"\n",
        webhook.url(),
        secret.display()
    );
    let mut farm = Farm::nginx_with_one_pool(Fleet::builder().toml(&toml));
    let load = farm.load(6.0, "/");
    farm.php.stop_pool("www");
    let open = farm.fleet.incident("the server fails", LIMIT, |i| i.scope() == "server");

    for round in 1..=3 {
        let stored = farm.fleet.db().n_status("web-1", 502);
        farm.fleet.kill9_agent("web-1");
        pause(Duration::from_millis(100 * round)); // traffic that nobody reads yet
        farm.fleet.restart_agent("web-1");
        more_502(&farm, stored);
        let stored = farm.fleet.db().n_status("web-1", 502);
        farm.fleet.kill9_collector();
        pause(Duration::from_millis(100 * round)); // batches that wait in the spool
        farm.fleet.start_collector();
        more_502(&farm, stored);
    }
    farm.fleet.kill9_collector();
    farm.fleet.kill9_agent("web-1");
    farm.fleet.start_collector();
    farm.fleet.restart_agent("web-1");

    farm.php.start_pool("www");
    let id = open.id().to_owned();
    let over = farm.fleet.incident("it resolves", LIMIT, |i| i.id() == id && !i.is_open());
    let seen = load.stop();
    assert_eq!(over.number("/affected/n_502"), seen.n_status(502));
    farm.assert_exact_after_drain(&seen);
    farm.assert_only(&[&id]);
    let told = eventually("both changes are told", LIMIT, || {
        let told: Vec<_> = webhook.deliveries().iter().map(harness::Delivery::json).collect();
        let ends = told.last().is_some_and(|m| m["event"] == "resolved");
        if ends { Ok(told) } else { Err(format!("{told:?}")) }
    });
    // One that was killed between the answer and its commit sends the same delivery again.
    let opened = told.iter().filter(|m| m["event"] == "opened").map(|m| m["delivery"].to_string());
    let n_opened = opened.collect::<BTreeSet<_>>().len();
    assert_eq!(n_opened, 1, "opened is told once: {told:?}");
}

/// Waits until more 502s are stored than there were: the chain works again.
fn more_502(farm: &Farm, stored: u64) {
    eventually("502s arrive again", LIMIT, || {
        let n = farm.fleet.db().n_status("web-1", 502);
        if n > stored {
            Ok(())
        } else {
            Err(format!("{n}\n{}", farm.fleet.agent("web-1").log_text()))
        }
    });
}

#[test]
fn fifty_kills_while_lines_are_written_lose_nothing_and_repeat_nothing() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").start();
    let mut truth = (0, 0);
    let complete = |fleet: &Fleet, truth: (u64, u64)| {
        eventually("every line is stored once", LIMIT, || {
            let db = fleet.db();
            let stored = (db.n_status("web-1", 200), db.n_status("web-1", 502));
            if stored == truth { Ok(()) } else { Err(format!("{stored:?} instead of {truth:?}")) }
        });
    };
    for round in 0..50 {
        fleet.log("web-1").requests("a.example", 400, 200);
        fleet.log("web-1").requests("b.example", 3, 502);
        pause(Duration::from_millis(37 * round % 200)); // each kill hits another moment of the work
        fleet.kill9_agent("web-1");
        fleet.log("web-1").requests("a.example", 100, 200);
        truth = (truth.0 + 500, truth.1 + 3);
        if round % 5 == 2 {
            fleet.log("web-1").rotate();
            fleet.log("web-1").requests("a.example", 10, 200);
            truth.0 += 10;
        }
        fleet.restart_agent("web-1");
        if round % 5 == 2 {
            complete(&fleet, truth); // the next rotation overwrites the rotated file
        }
    }
    complete(&fleet, truth);
    fleet.agent_mut("web-1").stop();
    let db = fleet.db();
    assert_eq!((db.n_status("web-1", 200), db.n_status("web-1", 502)), truth);
    assert_eq!(db.n_gaps(), Ok(0));
}
