//! What people are told of an outage: how often, by which route, and what is kept from them. Every
//! message is counted where it arrives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use harness::{
    FedServer, Incident, Output, Process, Root, Webhook, eventually, find_program, loopback, now_s,
    pause, route_toml,
};
use serde_json::Value;

use crate::estate::{Estate, LIMIT, fed, reaches};

/// An outage is over four seconds after its last failure, so that a story does not take long.
const QUICK: &str = "[detect]\nquiet = \"4s\"\n";

/// Waits until a receiver has exactly these events of an incident, in this order.
fn hears(estate: &Estate, by: &Webhook, incident: &Incident, events: &[&str]) {
    eventually(&format!("a receiver has {events:?}"), LIMIT, || {
        let seen = by.events_about(incident.id());
        let log = || estate.fleet.notices(incident.id());
        if seen == events { Ok(()) } else { Err(format!("{seen:?} {:#?}", log()?)) }
    });
}

/// The open incident of a server or of one of its pools, once `probe` likes it.
fn open_on(estate: &Estate, server: &str, probe: impl Fn(&Incident) -> bool) -> Incident {
    let is_on = |i: &Incident| i.is_open() && i.text("/where/server") == server;
    let what = format!("{server} has an incident");
    estate.fleet.incident(&what, LIMIT, |i| is_on(i) && probe(i))
}

/// The lines of an incident in the notify log about one route: what became of which event, and why.
fn log_of(estate: &Estate, incident: &Incident, route: &str) -> Vec<(String, String, String)> {
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let lines = estate.fleet.notices(incident.id()).expect("there is a log");
    let lines = lines.iter().filter(|line| line["route"] == route);
    lines.map(|line| (text(line, "event"), text(line, "what"), text(line, "why"))).collect()
}

/// Waits until the log says that `event` met this end on a route; returns why.
fn logged(estate: &Estate, incident: &Incident, route: &str, event: &str, what: &str) -> String {
    eventually(&format!("{event} is {what} on {route}"), LIMIT, || {
        let lines = log_of(estate, incident, route);
        let found = lines.iter().find(|(of, came, _)| of == event && came == what);
        found.map(|(.., why)| why.clone()).ok_or_else(|| format!("{lines:#?}"))
    })
}

/// A receiver's messages about an incident begin with one page and end with one end, and each update
/// between them tells a new scope, a new cause, or twice as many sites or servers as the one before.
fn assert_told_what_is_new(by: &Webhook, incident: &Incident) {
    let messages = by.messages_about(incident.id());
    let events: Vec<&str> = messages.iter().filter_map(|m| m["event"].as_str()).collect();
    let inner = events.len().saturating_sub(2);
    let right = [vec!["opened"], vec!["updated"; inner], vec!["resolved"]].concat();
    assert_eq!(events, right, "{messages:#?}");
    for pair in messages[..=inner].windows(2) {
        let [before, now] = [&pair[0]["incident"], &pair[1]["incident"]];
        let n = |of: &Value, key: &str| of["affected"][key].as_u64().expect("a number");
        let place = |of: &Value| {
            let of = &of["where"];
            [of["server"].clone(), of["label"].clone(), of["value"].clone(), of["labels"].clone()]
        };
        let is_news = before["scope"] != now["scope"]
            || place(before) != place(now)
            || before["cause"]["class"] != now["cause"]["class"]
            || ["n_sites", "n_servers"].iter().any(|key| n(now, key) >= 2 * n(before, key));
        assert!(is_news, "nothing is new: {pair:#?}");
    }
}

fn silence(estate: &Estate, matches: &str, reason: &str) -> String {
    let until = jiff::Timestamp::from_second(now_s() + 3600).expect("in range").to_string();
    let words =
        ["silence", "add", "--match", matches, "--until", &until, "--reason", reason, "--json"];
    let made = estate.fleet.cli(&words).good().expect("a silence can be made");
    let made: Value = serde_json::from_str(&made).expect("silence add prints JSON");
    made["id"].as_str().expect("it has an id").to_owned()
}

#[test]
fn seven_servers_with_2800_failing_sites_are_one_incident_and_one_page_on_every_route() {
    let mut servers = fed(1, 7, 400, "hypervisor=hv-1 region=eu");
    servers.extend(fed(8, 3, 10, "hypervisor=hv-2 region=eu"));
    let [pager, mine, other] = [0; 3].map(Webhook::start);
    let routes = [
        pager.route("pager", "min_severity = \"critical\""),
        mine.route("mine", "match = { hypervisor = \"hv-1\" }"),
        other.route("other", "match = { hypervisor = \"hv-2\" }"),
    ];
    let estate = Estate::with(servers, 0.5, &routes.concat());
    let group: Vec<String> = (1..=7).map(|n| format!("web-{n:02}")).collect();
    let group: Vec<&str> = group.iter().map(String::as_str).collect();
    for server in &group {
        estate.traffic.fail(server, "www");
    }
    let all_fail = |all: &[Incident]| {
        reaches(all, "group", &group)
            && all.iter().any(|i| i.is_top() && i.number("/affected/n_sites") == 2800)
    };
    let told = estate.told("2,800 sites fail", all_fail);
    told.assert_one_page_each();
    let open = told.only();
    assert_eq!((open.text("/where/label"), open.text("/where/value")), ("hypervisor", "hv-1"));
    assert_eq!(open.sites().len(), 1000, "a list has an end; the number is whole");
    let told = estate.mended();
    told.assert_told_from_start_to_end();
    assert_eq!(told.only().number("/affected/n_sites"), 2800);
    for by in [&estate.webhook, &pager, &mine] {
        assert_told_what_is_new(by, told.only());
        assert!(by.messages().iter().all(|m| m["incident"]["id"] == told.only().id()));
    }
    assert!(other.deliveries().is_empty(), "{:#?}", other.messages());
}

/// A pool fails, then its server, then all servers of the hypervisor, within two seconds; one of them is
/// in maintenance. True when the page named the hypervisor: a machine that is busy elsewhere
/// for a second may let a wait pass between two steps, and then people hear of the smaller scope first.
fn a_hypervisor_fails_step_by_step() -> bool {
    let mut servers = fed(2, 2, 6, "hypervisor=hv-1 region=eu");
    let first = FedServer::new("web-01", &[("www", 4), ("shop", 4)]);
    servers.push((first, "hypervisor=hv-1 region=eu".to_owned()));
    servers.extend(fed(4, 3, 6, "hypervisor=hv-2 region=eu"));
    let estate = Estate::with(servers, 8.0, QUICK);
    silence(&estate, "server=web-03", "a new disk");
    let group = ["web-01", "web-02", "web-03"];
    estate.traffic.fail("web-01", "www");
    pause(Duration::from_millis(800)); // the pace of the outage
    estate.traffic.fail("web-01", "shop");
    pause(Duration::from_millis(800)); // the pace of the outage
    estate.traffic.fail("web-02", "www");
    estate.traffic.fail("web-03", "www");
    let told = estate.told("the hypervisor fails", |all| reaches(all, "group", &group));
    told.assert_one_page_each();
    let open = told.only();
    assert_eq!((open.text("/where/label"), open.text("/where/value")), ("hypervisor", "hv-1"));
    assert_eq!(open.sites(), estate.sites_of(&group));
    assert_eq!(open.json()["silenced"], false, "two of three are in no maintenance: {open:?}");
    let told = estate.mended();
    told.assert_told_from_start_to_end();
    assert_told_what_is_new(&estate.webhook, told.only());
    let messages = estate.webhook.messages();
    messages[0]["incident"]["where"]["value"] == "hv-1" && messages.len() == 2
}

#[test]
fn a_pool_then_its_server_then_its_hypervisor_within_five_seconds_are_one_page_of_the_hypervisor() {
    assert!((0..3).any(|_| a_hypervisor_fails_step_by_step()), "people heard of its parts first");
}

#[test]
fn a_silence_keeps_pages_back_until_it_ends_and_never_the_end_of_what_was_paged() {
    let mut servers = fed(1, 2, 4, "");
    servers.extend(fed(3, 1, 4, ""));
    let estate = Estate::with(servers, 4.0, QUICK);
    let before = silence(&estate, "server=web-01", "a new kernel");
    estate.traffic.fail("web-01", "www");
    estate.traffic.fail("web-02", "www");

    let kept = open_on(&estate, "web-01", |i| i.json()["silenced"] == true);
    let why = logged(&estate, &kept, "webhook:0", "opened", "suppressed");
    assert!(why.contains(&before) && why.contains("a new kernel"), "{why}");
    let paged = open_on(&estate, "web-02", |i| i.json()["silenced"] == false);
    hears(&estate, &estate.webhook, &paged, &["opened"]);
    hears(&estate, &estate.webhook, &kept, &[]);

    silence(&estate, "server=web-02", "being repaired");
    open_on(&estate, "web-02", |i| i.json()["silenced"] == true);
    estate.fleet.cli(&["silence", "end", &before]).good().expect("it can be ended");
    hears(&estate, &estate.webhook, &kept, &["opened"]);
    open_on(&estate, "web-01", |i| i.json()["silenced"] == false);

    estate.traffic.mend();
    for over in [&kept, &paged] {
        hears(&estate, &estate.webhook, over, &["opened", "resolved"]);
        logged(&estate, over, "webhook:0", "resolved", "delivered");
    }
}

/// `Mon-Sun HH:00-HH:00`, from so many hours after this one until so many after it, UTC.
fn hours(from: i8, until: i8) -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour();
    let hour = |after: i8| (now + after).rem_euclid(24);
    format!("hours = [\"Mon-Sun {:02}:00-{:02}:00\"]\ntimezone = \"UTC\"", hour(from), hour(until))
}

#[test]
fn each_route_hears_what_it_asked_for_and_the_log_says_what_the_others_were_spared() {
    let [pager, acme, day, night, boss] = [0; 5].map(Webhook::start);
    let routes = [
        pager.route("pager", "min_severity = \"critical\""),
        acme.route("acme", "match = { customer = \"acme\" }"),
        day.route("day", &hours(-1, 3)),
        night.route("night", &hours(3, 5)),
        boss.route("boss", "escalate_after = \"10s\""),
    ];
    let mut servers = fed(1, 1, 4, "customer=acme");
    let second = FedServer::new("web-02", &[("www", 4), ("shop", 4)]);
    servers.push((second, "customer=zenith".to_owned()));
    let estate = Estate::with(servers, 4.0, &[QUICK, &routes.concat()].concat());
    let all = &estate.webhook;

    // A pool of one customer, which somebody takes at once; and all there is of another customer.
    estate.traffic.fail("web-02", "shop");
    let pool = open_on(&estate, "web-02", |_| true);
    estate.fleet.cli(&["incident", "ack", pool.id()]).good().expect("it can be taken");
    estate.traffic.fail("web-01", "www");
    let server = open_on(&estate, "web-01", |_| true);
    assert_eq!((pool.text("/severity"), server.text("/severity")), ("warning", "critical"));

    for (by, incident) in
        [(all, &pool), (all, &server), (&day, &pool), (&day, &server), (&pager, &server)]
    {
        hears(&estate, by, incident, &["opened"]);
    }
    hears(&estate, &acme, &server, &["opened"]);
    hears(&estate, &boss, &server, &["opened"]);
    let escalated = boss.messages()[0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(escalated.contains("10s") || escalated.contains("10 s"), "{escalated}");
    for (route, incident, what, word) in [
        ("pager", &pool, "unwanted", "below"),
        ("acme", &pool, "unwanted", "else"),
        ("night", &pool, "suppressed", "hours"),
        ("night", &server, "suppressed", "hours"),
        ("boss", &server, "suppressed", "acknowledged"),
    ] {
        let why = logged(&estate, incident, route, "opened", what);
        assert!(why.contains(word), "{route}: {why}");
    }

    estate.traffic.mend();
    for (by, incident) in [(all, &pool), (all, &server), (&day, &pool), (&day, &server)] {
        hears(&estate, by, incident, &["opened", "resolved"]);
    }
    for by in [&pager, &acme, &boss] {
        hears(&estate, by, &server, &["opened", "resolved"]);
        hears(&estate, by, &pool, &[]);
    }
    assert!(night.deliveries().is_empty(), "{:#?}", night.messages());
    assert_timeline(&estate, &server);
}

/// The incident's own story says who was told and who was not.
fn assert_timeline(estate: &Estate, incident: &Incident) {
    let shown = estate.fleet.incidents().expect("there are incidents");
    let shown = shown.iter().find(|i| i.id() == incident.id()).expect("it is listed");
    let story = shown.json()["timeline"].to_string();
    for route in ["webhook:0", "pager", "acme", "day", "night", "boss"] {
        assert!(story.contains(route), "nothing of {route}: {story}");
    }
}

/// The example for receivers, a program that shares nothing with ours.
struct Example {
    key: PathBuf,
    root: Root,
}

impl Example {
    fn with_key(key: PathBuf) -> Self {
        Self { key, root: Root::new() }
    }

    fn command(&self) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/verify_webhook.py");
        let mut command = Command::new(find_program(&["python3"], "python3"));
        command.args(["-W", "error", script, "--secret-file"]).arg(&self.key);
        command
    }

    /// Starts it as a receiver.
    fn listen(&self, address: SocketAddr) -> Process {
        let mut command = self.command();
        command.args(["--listen", &address.to_string()]);
        let mut receiver =
            Process::start("receiver", &mut command, &self.root.join("receiver.log"));
        receiver.listens_on(address);
        receiver
    }

    /// Its exit code for one message.
    fn verdict(&self, signature: &str, body: &[u8]) -> i32 {
        let file = self.root.join("body.json");
        std::fs::write(&file, body).expect("it is ours");
        let mut command = self.command();
        Output::of(command.args(["--signature", signature]).arg(file)).code
    }
}

#[test]
fn an_outage_that_doubles_is_told_once_more_and_a_receiver_in_python_believes_each_message() {
    let (pager, key) = (Webhook::start(0), Root::new());
    let key_file = key.secret("webhook.key", "a key that only these two have\n");
    let (example, address) = (Example::with_key(key_file.clone()), loopback(9000));
    let receiver = example.listen(address);
    let routes = [
        pager.route("pager", "min_severity = \"critical\""),
        route_toml(&format!("http://{address}/"), &key_file, "name = \"python\"\n"),
    ];
    let server = FedServer::new("web-01", &[("www", 12), ("shop", 20)]);
    let toml = [QUICK, &routes.concat()].concat();
    let estate = Estate::with(vec![(server, String::new())], 4.0, &toml);
    let fails = |n: usize| {
        estate.traffic.fail_first(n, "web-01", "www");
        open_on(&estate, "web-01", |i| i.number("/affected/n_sites") == n as u64)
    };
    let open = fails(6);
    assert_eq!(open.scope(), "pool", "{}", open.json());
    hears(&estate, &estate.webhook, &open, &["opened"]);
    assert!(pager.deliveries().is_empty(), "a pool of six sites is no critical one");
    fails(12);
    hears(&estate, &pager, &open, &["opened"]);
    hears(&estate, &estate.webhook, &open, &["opened", "updated"]);
    estate.traffic.mend();
    let told = ["opened", "updated", "resolved"];
    hears(&estate, &estate.webhook, &open, &told);
    hears(&estate, &pager, &open, &["opened", "resolved"]);
    for by in [&estate.webhook, &pager] {
        assert_told_what_is_new(by, &open);
        let last = by.messages_about(open.id()).pop().expect("there is an end");
        assert_eq!(last["incident"]["affected"]["n_sites"], 12, "{last}");
    }

    let believed = eventually("the receiver has the end", LIMIT, || {
        let log = receiver.log_text();
        let lines: Result<Vec<Value>, _> = log.lines().map(serde_json::from_str).collect();
        let lines = lines.map_err(|e| format!("{e}: {log}"))?;
        if lines.len() == told.len() { Ok(lines) } else { Err(log) }
    });
    let events: Vec<_> = believed.iter().map(|message| message["event"].clone()).collect();
    assert_eq!(events, told);
    assert_refuses_what_is_not_ours(&estate.webhook);
}

/// Real deliveries pass the script; changed, old or strange ones do not.
fn assert_refuses_what_is_not_ours(webhook: &Webhook) {
    let example = Example::with_key(webhook.key_file());
    for real in webhook.deliveries() {
        assert_eq!(example.verdict(&real.signature, &real.body), 0, "{real:?}");
    }
    let real = webhook.deliveries().swap_remove(0);
    let changed = [&real.body[..real.body.len() - 1], b" }"].concat();
    assert_eq!(example.verdict(&real.signature, &changed), 1, "a changed body");
    let (_, tag) = real.signature.split_once(",v1=").expect("t=...,v1=...");
    let redated = format!("t={},v1={tag}", now_s() + 1);
    assert_eq!(example.verdict(&redated, &real.body), 1, "another time");
    let signed_at = |t| webhook.signature(t, &real.body);
    assert_eq!(example.verdict(&signed_at(now_s()), &real.body), 0, "signed here and now");
    assert_eq!(example.verdict(&signed_at(now_s() - 3600), &real.body), 1, "an hour old");
    assert_eq!(example.verdict(&signed_at(now_s() + 3600), &real.body), 1, "of the future");
    for nothing in ["", "t=1", "v1=00", "t=x,v1=00", "t=1,t=2,v1=00"] {
        assert_eq!(example.verdict(nothing, &real.body), 1, "{nothing:?}");
    }
    let other = Root::new();
    let other = Example::with_key(other.secret("webhook.key", "another key, as long as it is"));
    assert_eq!(other.verdict(&real.signature, &real.body), 1, "another key");
}
