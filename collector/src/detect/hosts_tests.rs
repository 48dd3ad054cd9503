//! Whole servers: who is silent, squeezed or without services, alone and together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::UnixMillis;

use super::Engine;
use super::script::at;
use crate::config::DetectConfig;
use crate::model::{
    CollectorEvent, Incident, NotifyEvent, Record, ServerId, Transition, TransitionEvent,
};

/// A fleet whose agents send a heartbeat each second, for as long as they live.
pub(super) struct Fleet {
    pub(super) records: Vec<(i64, Record)>,
    names: Vec<String>,
    heartbeat_ms: i64,
}

impl Fleet {
    /// Servers by their labels, as "hypervisor=hv-1 rack=r1".
    pub(super) fn new(labels: &[&str]) -> Self {
        Self::with_heartbeat(labels, 1000)
    }

    pub(super) fn with_heartbeat(labels: &[&str], heartbeat_ms: i64) -> Self {
        let mut fleet = Self { records: Vec::new(), names: Vec::new(), heartbeat_ms };
        for (n, labels) in (1..).zip(labels) {
            let name = format!("web-{n:02}");
            let labels: BTreeMap<String, String> = labels
                .split_whitespace()
                .filter_map(|label| label.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            fleet.names.push(name.clone());
            let heartbeat = Duration::from_millis(heartbeat_ms as u64);
            let server = ServerId(n);
            fleet.push(-60_000, Record::Server { server, name, labels, n_cpu: 4, heartbeat });
        }
        fleet
    }

    /// Six servers on hv-3, two on hv-4, all in one region.
    pub(super) fn usual() -> Self {
        let on = |hv: &'static str| format!("hypervisor={hv} region=eu");
        let labels: Vec<String> =
            (0..14).map(|n| on(if n < 6 { "hv-3" } else { "hv-4" })).collect();
        Self::new(&labels.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn push(&mut self, ms: i64, record: Record) {
        self.records.push((at(0) + ms, record));
    }

    /// Heartbeats of `servers` in seconds `from..until`, each at its own place in the interval.
    pub(super) fn talk(
        mut self,
        servers: impl IntoIterator<Item = i64>,
        from: i64,
        until: i64,
    ) -> Self {
        for n in servers {
            let server = ServerId(n);
            let mut ms = from * 1000 + n * 137 % self.heartbeat_ms;
            while ms < until * 1000 {
                let clock = UnixMillis(at(0) + ms);
                self.push(ms, Record::Heartbeat { server, at: clock, clock });
                ms += self.heartbeat_ms;
            }
        }
        self
    }

    fn goodbye(mut self, n: i64, second: i64) -> Self {
        let record = Record::Goodbye { server: ServerId(n), at: UnixMillis(at(second)) };
        self.push(second * 1000, record);
        self
    }

    fn hello(mut self, n: i64, second: i64) -> Self {
        let record = Record::Hello { server: ServerId(n), at: UnixMillis(at(second)) };
        self.push(second * 1000, record);
        self
    }

    pub(super) fn own(mut self, second: i64, event: CollectorEvent) -> Self {
        self.push(second * 1000, Record::Collector { at: UnixMillis(at(second)), event });
        self
    }

    pub(super) fn unit(mut self, n: i64, second: i64, unit: &str, state: &str) -> Self {
        let (server, unit, state) = (ServerId(n), unit.to_owned(), state.to_owned());
        let (pool, reason, at) = (None, None, UnixMillis(at(second)));
        self.push(second * 1000 + 60, Record::Service { server, at, unit, state, pool, reason });
        self
    }

    /// Steal of one server each ten seconds.
    fn steal(mut self, n: i64, from: i64, until: i64, steal: f64) -> Self {
        for second in (from..until).step_by(10) {
            let values = vec![("system.cpu.steal", String::new(), steal)];
            let (server, at) = (ServerId(n), UnixMillis(at(second)));
            self.push(second * 1000 + 60, Record::Sample { server, at, values });
        }
        self
    }

    pub(super) fn in_order(&self) -> Vec<(i64, Record)> {
        let mut records = self.records.clone();
        records.sort_by_key(|(arrived, _)| *arrived);
        records
    }

    pub(super) fn play(&self, until: i64) -> Story {
        let mut engine = Engine::new(&DetectConfig::default());
        let mut transitions = Vec::new();
        for (arrived, record) in self.in_order().into_iter().filter(|(a, _)| *a <= at(until)) {
            transitions.extend(engine.advance(UnixMillis(arrived - 1)));
            engine.fold(UnixMillis(arrived), &record);
        }
        transitions.extend(engine.advance(UnixMillis(at(until))));
        Story { transitions }
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Story {
    pub(super) transitions: Vec<Transition>,
}

impl Story {
    /// "open 26.0 title" and so on, updates left out.
    pub(super) fn told(&self) -> Vec<String> {
        let shown = self.transitions.iter().filter(|t| t.event != TransitionEvent::Update);
        let line = |t: &Transition| {
            let second = (t.at.0 - at(0)) as f64 / 1000.0;
            format!("{} {second:.0} {}", format!("{:?}", t.event).to_lowercase(), t.incident.title)
        };
        shown.map(line).collect()
    }

    pub(super) fn last(&self) -> Vec<&Incident> {
        let mut last: BTreeMap<&str, &Incident> = BTreeMap::new();
        for transition in &self.transitions {
            last.insert(&transition.incident.id, &transition.incident);
        }
        last.into_values().filter(|incident| incident.parent.is_none()).collect()
    }

    pub(super) fn only(&self) -> &Incident {
        let last = self.last();
        assert_eq!(last.len(), 1, "{:#?}", self.told());
        last[0]
    }

    pub(super) fn notified(&self) -> Vec<NotifyEvent> {
        self.transitions.iter().filter_map(|t| t.notify.as_ref()).map(|n| n.event).collect()
    }
}

#[test]
fn servers_of_one_hypervisor_that_fall_silent_together_are_one_group_incident() {
    let fleet = Fleet::usual().talk(7..=14, 0, 300).talk(1..=6, 0, 90).talk(1..=6, 180, 300);
    let story = fleet.play(300);
    let [open, resolve] = &story.told()[..] else { panic!("{:#?}", story.told()) };
    assert!(open.ends_with("6 servers of hypervisor hv-3 send nothing since 12:01:29"), "{open}");
    let second: i64 = open.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap();
    assert!(
        (94..=97).contains(&second),
        "four heartbeats, at least 5 s, and one to settle: {open}"
    );
    assert!(resolve.contains("sent nothing from 12:01:29 to 12:03:0"), "{resolve}");
    let incident = story.only();
    assert_eq!(
        (&*incident.kind, &*incident.scope, &*incident.severity),
        ("silence", "group", "critical")
    );
    assert_eq!(incident.cause.class, "agent_silence");
    let place = &incident.place;
    assert_eq!(
        (place.label.as_deref(), place.value.as_deref()),
        (Some("hypervisor"), Some("hv-3"))
    );
    assert_eq!(place.members.len(), 6);
    let open = &story.transitions[0].incident;
    assert!(open.cause.evidence[0].text.starts_with("8 other servers talk"), "{open:#?}");
    assert_eq!(story.notified(), [NotifyEvent::Opened, NotifyEvent::Resolved]);
    assert_eq!(incident.affected.n_gateway_errors, 0);
}

#[test]
fn one_server_opens_after_30_seconds_and_flapping_keeps_its_id() {
    let mut fleet = Fleet::usual().talk((1..=14).filter(|n| *n != 9), 0, 900).talk([9], 0, 60);
    for from in [120, 240, 360] {
        fleet = fleet.talk([9], from, from + 30);
    }
    let story = fleet.talk([9], 480, 900).play(900);
    let told = story.told();
    assert!(told[0].starts_with("open 9"), "{told:#?}");
    assert!(told[0].ends_with("agent on web-09 silent since 12:00:59"), "{told:#?}");
    let ids: BTreeSet<&str> = story.transitions.iter().map(|t| &*t.incident.id).collect();
    assert_eq!(ids.len(), 1, "{told:#?}");
    let reopened = told.iter().filter(|line| line.starts_with("reopen")).count();
    assert!(reopened >= 1, "{told:#?}");
    assert_eq!(story.only().state, "resolved");
    assert!(story.notified().len() <= 4, "{:?}", story.notified());
}

#[test]
fn a_server_silent_for_less_than_30_seconds_and_two_of_a_hypervisor_open_no_group() {
    let short = Fleet::usual().talk(3..=14, 0, 200).talk([1, 2], 0, 60).talk([1, 2], 85, 200);
    assert_eq!(short.play(200).told(), [""; 0]);
    let two = Fleet::usual().talk(3..=14, 0, 200).talk([1, 2], 0, 60).play(200);
    let scopes: Vec<&str> = two.last().iter().map(|incident| &*incident.scope).collect();
    assert_eq!(scopes, ["server", "server"]);
}

#[test]
fn a_goodbye_is_no_silence_until_no_hello_came_for_ten_minutes() {
    let mut left = Fleet::usual().talk(6..=14, 0, 1500).talk(1..=5, 0, 60);
    for n in 1..=5 {
        left = left.goodbye(n, 60);
    }
    assert_eq!(left.play(655).told(), [""; 0]);
    let told = left.play(700).told();
    assert!(told.len() == 1 && told[0].starts_with("open 66"), "{told:#?}");
    let mut back = left;
    for n in 1..=5 {
        back = back.hello(n, 500 + n);
    }
    let back = back.talk(1..=5, 506, 1500);
    assert_eq!(back.play(1500).told(), [""; 0], "a hello ends the wait");
    let alone = Fleet::usual().talk(2..=14, 0, 1500).talk([1], 0, 60).goodbye(1, 60).play(1500);
    assert_eq!(alone.only().title, "agent on web-01 stopped at 12:01:00 and did not come back");
}

#[test]
fn neither_a_start_nor_a_lost_uplink_makes_the_collector_blind_for_long() {
    let fleet = Fleet::usual().talk(7..=14, 0, 400).talk(1..=6, 0, 100);
    assert_eq!(fleet.own(102, CollectorEvent::Started).play(400).only().scope, "group");
    let never_back = Fleet::usual().talk(1..=14, 0, 100).own(108, CollectorEvent::UplinkLost);
    assert_eq!(never_back.play(2000).told(), [""; 0]);
}

#[test]
fn half_the_fleet_missing_puts_the_uplink_in_doubt_before_anything_opens() {
    let fleet = Fleet::usual().talk(1..=14, 0, 100);
    let mut engine = Engine::new(&DetectConfig::default());
    for (arrived, record) in fleet.in_order() {
        engine.advance(UnixMillis(arrived - 1));
        engine.fold(UnixMillis(arrived), &record);
    }
    let mut doubted = None;
    let mut opened = None;
    for quarter in 0..400 {
        let now = UnixMillis(at(100) + quarter * 250);
        let opens = !engine.advance(now).is_empty();
        doubted = doubted.or(engine.doubts_uplink().then_some(now.0));
        opened = opened.or(opens.then_some(now.0));
    }
    let (doubted, opened) = (doubted.expect("it doubts"), opened.expect("nobody said lost"));
    assert!(opened - doubted >= 6_000, "{doubted} {opened}");
    let text = fleet.play(200).only().cause.evidence[0].text.clone();
    assert!(text.contains("cannot be ruled out"), "{text}");
    // Fewer than half: there is nothing to ask.
    let some = Fleet::usual().talk(7..=14, 0, 200).talk(1..=6, 0, 100);
    let mut engine = Engine::new(&DetectConfig::default());
    for (arrived, record) in some.in_order() {
        engine.advance(UnixMillis(arrived - 1));
        assert!(!engine.doubts_uplink());
        engine.fold(UnixMillis(arrived), &record);
    }
}

#[test]
fn a_group_stays_while_some_are_silent_and_lists_them() {
    let fleet = Fleet::usual().talk(7..=14, 0, 400).talk(1..=6, 0, 100).talk(3..=6, 150, 400).talk(
        1..=2,
        300,
        400,
    );
    let story = fleet.play(250);
    let open = story.only();
    assert_eq!((&*open.state, open.affected.n_servers), ("open", 2));
    assert!(
        open.title.starts_with("2 of 6 servers of hypervisor hv-3 send nothing"),
        "{}",
        open.title
    );
    let named: BTreeSet<_> =
        open.cause.evidence.iter().filter_map(|evidence| evidence.server.as_deref()).collect();
    assert_eq!(named, BTreeSet::from(["web-01", "web-02"]));
    assert_eq!(fleet.play(400).only().state, "resolved");
}

#[test]
fn a_wider_silence_takes_over_the_id_and_a_group_that_comes_back_keeps_it() {
    // First one server, then its hypervisor, then the whole region but the collector's own.
    let labels: Vec<String> = (0..30)
        .map(|n| format!("hypervisor=hv-{} region={}", n / 5, if n < 15 { "eu" } else { "us" }))
        .collect();
    let fleet = Fleet::new(&labels.iter().map(String::as_str).collect::<Vec<_>>())
        .talk(16..=30, 0, 600)
        .talk([1], 0, 100)
        .talk(2..=5, 0, 160)
        .talk(6..=15, 0, 220);
    let story = fleet.play(400);
    let told = story.told();
    let words: Vec<&str> = told.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["open", "escalate", "escalate"], "{told:#?}");
    assert!(told[2].contains("15 servers of region eu"), "{told:#?}");
    let ids: BTreeSet<&str> = story.transitions.iter().map(|t| &*t.incident.id).collect();
    assert_eq!(ids.len(), 1);

    let again = Fleet::usual().talk(7..=14, 0, 400).talk(1..=6, 0, 100).talk(1..=6, 130, 170).talk(
        1..=6,
        230,
        400,
    );
    let story = again.play(400);
    let ids: BTreeSet<&str> = story.transitions.iter().map(|t| &*t.incident.id).collect();
    assert_eq!(ids.len(), 1, "{:#?}", story.told());
    assert!(story.told().iter().any(|line| line.starts_with("reopen")), "{:#?}", story.told());
}

#[test]
fn different_heartbeats_of_one_fleet_do_not_make_a_lost_uplink_a_group() {
    // Three servers of a rack beat each second, the others each 5 s: their silence shows first.
    let mut fast = Fleet::new(&["rack=r1", "rack=r1", "rack=r1"]).talk(1..=3, 0, 100);
    let slow = Fleet::with_heartbeat(&["rack=r2"; 13], 5000).talk(4..=13, 0, 100);
    let later = slow.records.into_iter().filter(|(_, record)| match record {
        Record::Server { server, .. } | Record::Heartbeat { server, .. } => server.0 > 3,
        _ => false,
    });
    fast.records.extend(later);
    let story = fast.own(110, CollectorEvent::UplinkLost).play(300);
    assert_eq!(story.told(), [""; 0]);
}

#[test]
fn an_engine_saved_at_any_moment_goes_on_as_if_nothing_had_happened() {
    let fleet = Fleet::usual()
        .talk(7..=14, 0, 300)
        .talk(1..=6, 0, 90)
        .talk(1..=6, 180, 300)
        .steal(9, 0, 300, 0.4)
        .steal(10, 0, 300, 0.4)
        .steal(11, 0, 300, 0.4)
        .unit(12, 20, "nginx.service", "active");
    let whole = fleet.play(300);
    assert!(whole.transitions.len() >= 3);
    for cut in (0..300).step_by(7) {
        let mut engine = Engine::new(&DetectConfig::default());
        let mut transitions = Vec::new();
        let mut saved = false;
        for (arrived, record) in fleet.in_order() {
            if !saved && arrived > at(cut) {
                saved = true;
                engine = Engine::load(&engine.save(), &DetectConfig::default()).unwrap();
            }
            transitions.extend(engine.advance(UnixMillis(arrived - 1)));
            engine.fold(UnixMillis(arrived), &record);
        }
        transitions.extend(engine.advance(UnixMillis(at(300))));
        assert_eq!(Story { transitions }, whole, "saved at {cut}");
    }
}

#[test]
fn an_old_snapshot_with_the_stored_cases_neither_repeats_nor_resolves_a_silence() {
    let fleet = Fleet::usual().talk(7..=14, 0, 400).talk(1..=6, 0, 90);
    let mut engine = Engine::new(&DetectConfig::default());
    let (mut old, mut cases, mut opened) = (None, None, Vec::new());
    for (arrived, record) in fleet.in_order() {
        opened.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
        if arrived >= at(80) && old.is_none() {
            old = Some(engine.save());
        }
        if arrived >= at(130) {
            cases = Some(engine.save_cases());
            break;
        }
    }
    assert_eq!(opened.iter().filter(|t| t.event == TransitionEvent::Open).count(), 1);
    // Killed at 130, started again at 140; heartbeats in between are not stored.
    let mut engine = Engine::load(&old.unwrap(), &DetectConfig::default()).unwrap();
    let started = Record::Collector { at: UnixMillis(at(140)), event: CollectorEvent::Started };
    engine.fold(UnixMillis(at(140)), &started);
    engine.load_cases(&cases.unwrap()).unwrap();
    let mut after = Vec::new();
    for (arrived, record) in fleet.in_order().into_iter().filter(|(a, _)| *a > at(142)) {
        after.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
    }
    let story = Story { transitions: after };
    assert_eq!(story.told(), [""; 0]);
    assert!(engine.has_cases());
    // And when they talk again it resolves, under the same id.
    let mut over = Vec::new();
    for second in 400..440 {
        for n in 1..=14 {
            let (server, clock) = (ServerId(n), UnixMillis(at(second)));
            engine.fold(clock, &Record::Heartbeat { server, at: clock, clock });
        }
        over.extend(engine.advance(UnixMillis(at(second))));
    }
    let ended = over.iter().find(|t| t.event == TransitionEvent::Resolve).expect("it resolves");
    assert_eq!(ended.incident.id, opened[0].incident.id);
}

#[test]
fn forgotten_revoked_and_never_heard_servers_are_not_missed() {
    let fleet = Fleet::usual().talk(7..=14, 0, 300);
    assert_eq!(fleet.play(300).told(), [""; 0], "six were never heard");
    let fleet = Fleet::usual().talk(7..=14, 0, 300).talk(1..=6, 0, 90);
    let mut engine = Engine::new(&DetectConfig::default());
    let mut transitions = Vec::new();
    for (arrived, record) in fleet.in_order() {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
        if arrived > at(150) {
            engine.keep(&(7..=14).map(ServerId).collect());
        }
    }
    let story = Story { transitions };
    assert_eq!(story.told().len(), 2, "{:#?}", story.told());
    let last = &story.only().timeline;
    assert!(last.iter().any(|m| m.what.contains("left the fleet")), "{last:#?}");
}

#[test]
fn steal_on_the_servers_of_one_hypervisor_is_pressure_and_wakes_nobody() {
    let mut fleet = Fleet::usual().talk(1..=14, 0, 500);
    for n in 1..=14 {
        let hit = n <= 6;
        fleet = fleet.steal(n, 0, 100, 0.01).steal(n, 100, 250, if hit { 0.4 } else { 0.02 });
        fleet = fleet.steal(n, 250, 500, 0.01);
    }
    let story = fleet.play(500);
    let incident = story.only();
    assert_eq!(
        (&*incident.kind, &*incident.severity, &*incident.state),
        ("pressure", "info", "resolved")
    );
    assert_eq!((&*incident.cause.class, incident.place.value.as_deref()), ("steal", Some("hv-3")));
    assert!(incident.title.contains("steal up to 40 %"), "{}", incident.title);
    let told = story.told();
    assert!(told[0].starts_with("open 16"), "a minute of steal: {told:#?}");
    // Less than a minute of it is nothing.
    let mut short = Fleet::usual().talk(1..=14, 0, 300);
    for n in 1..=14 {
        short = short.steal(n, 0, 100, 0.01).steal(n, 100, 150, 0.6).steal(n, 150, 300, 0.01);
    }
    assert_eq!(short.play(300).told(), [""; 0]);
}

#[test]
fn a_unit_that_fails_on_three_servers_within_a_minute_is_one_incident_of_services() {
    let running = || {
        let mut fleet = Fleet::usual().talk(1..=14, 0, 400);
        for n in 1..=14 {
            fleet = fleet.unit(n, 1, "php8.2-fpm.service", "active");
        }
        fleet
    };
    let mut fleet = running();
    for (n, second) in [(1, 100), (2, 110), (3, 120), (4, 125), (5, 126)] {
        fleet = fleet.unit(n, second, "php8.2-fpm.service", "failed");
    }
    let story = fleet.play(200);
    let incident = story.only();
    assert_eq!((&*incident.kind, &*incident.scope), ("services", "group"));
    assert_eq!((&*incident.cause.class, &*incident.severity), ("service_down", "critical"));
    let title = "php8.2-fpm.service failed on 5 of 6 servers of hypervisor hv-3 since 12:01:40";
    assert_eq!(incident.title, title);
    for n in 1..=5 {
        fleet = fleet.unit(n, 250, "php8.2-fpm.service", "active");
    }
    assert_eq!(fleet.play(400).only().state, "resolved");
    // Minutes apart, or stopped on purpose, they are nothing.
    let mut apart = running();
    for (n, second) in [(1, 50), (2, 130), (3, 210), (4, 290)] {
        apart = apart.unit(n, second, "php8.2-fpm.service", "failed");
    }
    assert_eq!(apart.play(400).told(), [""; 0]);
    let mut stopped = running();
    for n in 1..=6 {
        stopped = stopped.unit(n, 100, "php8.2-fpm.service", "inactive");
    }
    assert_eq!(stopped.play(400).told(), [""; 0]);
}

#[test]
fn failed_services_that_no_agent_tells_again_are_not_well_after_a_lost_snapshot() {
    let unit = "php8.2-fpm.service";
    let mut fleet = Fleet::usual().talk(1..=14, 0, 400);
    for n in 1..=4 {
        fleet = fleet.unit(n, 100 + n, unit, "failed");
    }
    let (mut engine, mut opened) = (Engine::new(&DetectConfig::default()), Vec::new());
    for (arrived, record) in fleet.in_order().into_iter().filter(|(a, _)| *a < at(160)) {
        opened.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
    }
    assert_eq!(Story { transitions: opened }.only().kind, "services");
    let cases = engine.save_cases();
    let mut engine = Engine::new(&DetectConfig::default());
    for (arrived, record) in fleet.in_order().into_iter().filter(|(a, _)| *a <= at(0)) {
        engine.fold(UnixMillis(arrived), &record);
    }
    engine.load_cases(&cases).unwrap();
    let (mut after, back) = (Vec::new(), fleet.unit(2, 300, unit, "active"));
    let back = [1, 3, 4].into_iter().fold(back, |fleet, n| fleet.unit(n, 340, unit, "active"));
    let mut until = |second: i64, from: i64| {
        let arrived = |(a, _): &(i64, Record)| (at(from)..at(second)).contains(a);
        for (arrived, record) in back.in_order().into_iter().filter(arrived) {
            after.extend(engine.advance(UnixMillis(arrived - 1)));
            engine.fold(UnixMillis(arrived), &record);
        }
        Story { transitions: after.clone() }
    };
    assert_eq!(until(339, 165).told(), [""; 0], "one of four is well, the others are not");
    let over = until(400, 339);
    assert_eq!((over.only().state.as_str(), over.told().len()), ("resolved", 1));
    assert!(over.only().title.starts_with(unit), "{}", over.only().title);
}

#[test]
fn a_server_whose_clock_runs_ahead_hides_no_failed_services() {
    let mut fleet = Fleet::usual().talk(1..=14, 0, 300);
    for n in 1..=14 {
        fleet = fleet.unit(n, 1, "php8.2-fpm.service", "active");
    }
    let (unit, state) = ("nginx.service".to_owned(), "failed".to_owned());
    let at = UnixMillis(at(390));
    let (pool, reason, server) = (None, None, ServerId(14));
    fleet.push(100_000, Record::Service { server, at, unit, state, pool, reason });
    for n in 1..=5 {
        fleet = fleet.unit(n, 110, "php8.2-fpm.service", "failed");
    }
    assert_eq!(fleet.play(200).only().affected.n_servers, 5);
}

#[test]
fn one_server_that_never_came_back_does_not_hide_a_later_silence_of_its_region() {
    let mut fleet = Fleet::usual().talk(1..=14, 0, 100).talk([7], 0, 100);
    fleet = fleet.talk((1..=14).filter(|n| *n != 7), 200, 3_800);
    fleet = fleet.talk(8..=14, 3_800, 4_000);
    let witness = fleet.play(150);
    assert!(!witness.last().is_empty(), "the region was silent");
    let story = fleet.play(4_000);
    let open: Vec<_> = story.last().into_iter().filter(|i| i.state == "open").collect();
    assert!(open.iter().any(|i| i.affected.n_servers == 6), "{:?}", story.told());
}

#[test]
fn a_server_that_is_gone_is_squeezed_no_more() {
    let mut fleet = Fleet::usual().talk(1..=14, 0, 900);
    for n in 1..=14 {
        let high = if n < 7 { 0.4 } else { 0.0 };
        fleet = fleet.steal(n, 0, 200, high);
    }
    for n in 7..=14 {
        fleet = fleet.steal(n, 200, 900, 0.0);
    }
    let story = fleet.play(300);
    assert_eq!((story.only().kind.as_str(), story.only().state.as_str()), ("pressure", "open"));
    assert_eq!(fleet.play(900).only().state, "resolved");
}

#[test]
fn ten_thousand_quiet_servers_cost_a_look_at_the_first_deadline() {
    let labels: Vec<String> = (0..10_000).map(|n| format!("hypervisor=hv-{}", n / 20)).collect();
    let mut fleet = Fleet::with_heartbeat(&labels.iter().map(|l| &**l).collect::<Vec<_>>(), 5000);
    fleet = fleet.talk(1..=9_980, 0, 60).talk(9_981..=10_000, 0, 20);
    let story = fleet.play(60);
    assert_eq!(story.only().place.value.as_deref(), Some("hv-499"));
}
