//! Hours that were packed answer as they did before: counts, exports and their replay, evidence,
//! localize, series and top.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::{AgentSpec, Fleet, Incident, Output, eventually, find_program, now_s, program};
use serde_json::{Value, json};

const HOUR: i64 = 3600;
/// A busy machine packs three hours at its leisure.
const LIMIT: Duration = Duration::from_secs(180);
/// Not while this test looks: everything is read from what came.
const PACK_LATER: &str = "[store]\nseal_interval = \"1h\"\n";
/// Whatever is complete.
const PACK_NOW: &str =
    "[store]\nseal_after = \"0s\"\nlate_after = \"0s\"\nseal_interval = \"1s\"\n";
const SITES: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];

/// RFC 3339 of a second.
fn rfc(second: i64) -> String {
    let at = jiff::Timestamp::from_second(second).expect("this century");
    at.to_string()
}

/// A request each ten seconds for three hours and site on both servers; for two minutes of the second
/// hour the sites of web-1 fail. Returns what web-1 logged.
fn write_three_hours(fleet: &mut Fleet, from: i64) -> BTreeMap<u16, u64> {
    let mut sent = BTreeMap::new();
    let outage = from + HOUR + 1800..from + HOUR + 1920;
    for at in (from + 20..from + 3 * HOUR - 20).step_by(10) {
        for server in ["web-1", "web-2"] {
            let fails = server == "web-1" && outage.contains(&at);
            let log = fleet.log(server);
            log.shift_clock(at - now_s());
            for site in SITES {
                let (n, status) = if fails { (4, 502) } else { (1, 200) };
                log.requests(site, n, status);
                if server == "web-1" {
                    *sent.entry(status).or_default() += n;
                }
            }
        }
    }
    sent
}

fn get(fleet: &Fleet, path: &str) -> Value {
    let (headers, body) = fleet.http_get(path, "");
    assert!(headers.starts_with("HTTP/1.0 200"), "{path}: {headers}");
    serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What an incident says that no packing may change.
fn essence(incident: &Value) -> Value {
    let keys = ["id", "kind", "scope", "where", "started_at", "state"];
    let mut essence: BTreeMap<&str, Value> =
        keys.into_iter().map(|key| (key, incident[key].clone())).collect();
    essence.insert("n_gateway_errors", incident["affected"]["n_gateway_errors"].clone());
    essence.insert("cause", incident["cause"]["class"].clone());
    json!(essence)
}

/// The incidents that a replay of the export tells. Batches are exported by when they came, which is now,
/// packed hours by their own times.
fn replayed(fleet: &Fleet, from: i64) -> Value {
    let (headers, body) = fleet.http_get(&format!("/api/v1/export?from={}", rfc(from)), "");
    assert!(headers.starts_with("HTTP/1.0 200"), "{headers}");
    let file = fleet.data_dir().join("export.jsonl");
    fs::write(&file, body).expect("it is writable");
    let file = file.to_str().expect("a path of ASCII");
    let mut command = Command::new(program("gatewatch-collector"));
    let out = Output::of(command.args(["replay", "--final", file]));
    let out = out.good().expect("it replays");
    let lines = out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
    // From three hours ago to now nobody was heard, as far as packed hours know: they do not keep when
    // batches came. `replay` says so.
    let outages = lines.filter(|line: &Value| line["incident"]["kind"] == "gateway_errors");
    outages.map(|line| essence(&line["incident"])).collect()
}

/// Everything that is asked of history.
fn answers(fleet: &Fleet, from: i64, incident: &str) -> BTreeMap<&'static str, Value> {
    let to = from + 3 * HOUR;
    let span = format!("from={}&to={}", rfc(from), rfc(to));
    let counts: Vec<Value> = ["web-1", "web-2"]
        .iter()
        .map(|server| get(fleet, &format!("/api/v1/counts?server={server}&{span}")))
        .collect();
    let (from_text, to_text) = (rfc(from + HOUR), rfc(to - HOUR));
    let localized = fleet.cli(&[
        "localize",
        "--from",
        &from_text,
        "--to",
        &to_text,
        "--by",
        "rack,server,site",
    ]);
    let found = localized.good().expect("one rack fails");
    let found: Vec<Value> =
        found.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let evidence = fleet.cli(&["incident", "evidence", incident, "--format", "json"]);
    let evidence: Value =
        serde_json::from_str(&evidence.good().expect("it is made")).expect("it is JSON");
    let late = format!("from={}&to={}", rfc(from), rfc(to));
    let series =
        get(fleet, &format!("/api/v1/series?server=late&metric=system.memory.utilization&{late}"));
    let top = get(fleet, &format!("/api/v1/top?metric=system.memory.utilization&stat=max&{late}"));
    BTreeMap::from([
        ("counts", json!(counts)),
        ("localize", json!(found)),
        ("evidence", essence(&evidence["incident"])),
        ("evidence counts", evidence["counts"].clone()),
        ("series", series["points"].clone()),
        ("top", top["top"].clone()),
        ("replay", replayed(fleet, from)),
    ])
}

#[test]
fn three_hours_with_an_outage_are_told_the_same_before_and_after_they_are_packed() {
    // This one lives three hours ago, so that its samples are of an hour that is over.
    let faketime = find_program(&["faketime"], "faketime").display().to_string();
    let ago = AgentSpec::new("late").wrapper(&[&faketime, "-f", "-10800s"]);
    let mut fleet = Fleet::builder()
        .agent(AgentSpec::new("web-1").label("rack", "r1"))
        .agent(AgentSpec::new("web-2").label("rack", "r2"))
        .agent(ago.label("rack", "r3").toml("[probes]\ninterval = \"1s\"\n"))
        .batch_interval("500ms")
        .toml(PACK_LATER)
        .start();
    let from = (now_s() / HOUR - 4) * HOUR;
    let sent = write_three_hours(&mut fleet, from);
    eventually("both servers' requests are stored", LIMIT, || {
        let n = ["web-1", "web-2"].map(|server| fleet.db().n_requests(server));
        let n_sent: u64 = sent.values().sum();
        // web-2 has one request where web-1 has four that fail.
        let n_quiet = n_sent - sent[&502] + sent[&502] / 4;
        if n == [n_sent, n_quiet] { Ok(()) } else { Err(format!("{n:?} of {n_sent}, {n_quiet}")) }
    });
    let over = fleet.incident("the outage is told in retrospect", LIMIT, |incident| {
        incident.json()["retroactive"] == true && !incident.is_open()
    });
    assert_eq!(over.number("/affected/n_502"), sent[&502], "{}", over.json());
    let n_samples = |fleet: &Fleet| {
        let samples = fleet.db().samples("late", &["system.memory.utilization"])?;
        if samples.len() > 20 { Ok(()) } else { Err(format!("{}", samples.len())) }
    };
    eventually("there are samples of three hours ago", LIMIT, || n_samples(&fleet));
    fleet.agent_mut("late").stop();
    let before = answers(&fleet, from, over.id());
    assert_eq!(before["counts"][0]["sites"]["a.example"]["502"], sent[&502] / 4, "{before:#?}");
    assert!(!before["series"].as_array().expect("a list").is_empty());
    assert_eq!(before["top"][0]["server"], "late");
    let told: BTreeSet<&str> = before["replay"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|i| i["id"].as_str())
        .collect();
    assert!(told.contains(over.id()), "{:#?}", before["replay"]);

    fleet.stop_collector();
    let file = fleet.data_dir().parent().expect("it has one").join("collector.toml");
    let toml = fs::read_to_string(&file).expect("the harness wrote it");
    fs::write(&file, toml.replace(PACK_LATER, PACK_NOW)).expect("it is writable");
    fleet.start_collector();
    eventually("three hours are packed and what came of them is gone", LIMIT, || {
        let n_packed = fleet.db().n_sealed(from..from + 3 * HOUR)?;
        let n_hot = fleet.db().n_hot_until((from + 3 * HOUR) * 1000)?;
        if (n_packed, n_hot) == (3, 0) { Ok(()) } else { Err(format!("{n_packed}, {n_hot}")) }
    });
    compare(&before, &answers(&fleet, from, over.id()));

    fleet.kill9_collector();
    fleet.start_collector();
    compare(&before, &answers(&fleet, from, over.id()));
    let still: Vec<String> =
        fleet.incidents().expect("it runs").iter().map(|i| i.id().to_owned()).collect();
    assert!(still.contains(&over.id().to_owned()), "{still:?}");
    assert!(!Incident::is_open(&over));
}

fn compare(before: &BTreeMap<&str, Value>, after: &BTreeMap<&str, Value>) {
    for (what, value) in before {
        assert_eq!(&after[what], value, "{what}");
    }
}

/// Seconds from now to this one, UTC: what the programs' clocks are ahead.
fn ahead_of_now(text: &str) -> i64 {
    let at: jiff::Timestamp = text.parse().expect("RFC 3339");
    at.as_second() - now_s()
}

#[test]
fn a_leap_day_is_a_day_of_its_own_whatever_zone_a_server_logs_in() {
    let faketime = find_program(&["faketime"], "faketime").display().to_string();
    let offset = format!("+{}s", ahead_of_now("2028-03-01T02:30:00Z"));
    let agent = |name: &str, zone: &str| {
        let zone = format!("TZ={zone}");
        AgentSpec::new(name).wrapper(&["env", &zone, &faketime, "-f", &offset])
    };
    let mut fleet = Fleet::builder()
        .agent(agent("kolkata", "Asia/Kolkata"))
        .agent(agent("denver", "America/Denver"))
        .batch_interval("500ms")
        .toml(PACK_NOW)
        .collector_wrapper(|_| {
            let faketime = find_program(&["faketime"], "faketime").display().to_string();
            let offset = format!("+{}s", ahead_of_now("2028-03-01T02:30:00Z"));
            vec![faketime, "-f".to_owned(), offset]
        })
        .start();
    let line = |time: &str, n: u8| {
        format!("a.example 203.0.113.{n} - - [{time}] \"GET / HTTP/1.1\" 200 512 \"-\" \"-\"\n")
    };
    // The last and the first minute around midnight, UTC, as each writes them: 3 before it, 4 after.
    for (server, before, after) in [
        ("kolkata", "01/Mar/2028:05:29:59 +0530", "01/Mar/2028:05:30:00 +0530"),
        ("denver", "29/Feb/2028:16:59:59 -0700", "29/Feb/2028:17:00:00 -0700"),
    ] {
        let lines: String = (1..=3).map(|n| line(before, n)).collect();
        fleet.log(server).raw(lines.as_bytes());
        let lines: String = (4..=7).map(|n| line(after, n)).collect();
        fleet.log(server).raw(lines.as_bytes());
    }
    let midnight = jiff::Timestamp::from_second(1_835_481_600).expect("2028-03-01").as_second();
    eventually("both hours are packed", LIMIT, || {
        let n = fleet.db().n_sealed(midnight - HOUR..midnight + HOUR)?;
        if n == 2 { Ok(()) } else { Err(format!("{n}")) }
    });
    for day in ["20280229.db", "20280301.db"] {
        assert!(fleet.data_dir().join("blocks").join(day).is_file(), "{day}");
    }
    for server in ["kolkata", "denver"] {
        for (from, n) in [(midnight - HOUR, 3), (midnight, 4)] {
            let span = format!("from={}&to={}", rfc(from), rfc(from + HOUR));
            eventually("every request is in its hour", LIMIT, || {
                let counts = get(&fleet, &format!("/api/v1/counts?server={server}&{span}"));
                let found = counts["sites"]["a.example"]["200"].as_u64();
                if found == Some(n) { Ok(()) } else { Err(format!("{server} {from}: {counts}")) }
            });
        }
    }
}
