//! The words of pages, as tables.

use std::time::Duration;

use super::*;
use crate::detect::script::{Fate, REFUSED, Script};
use crate::model::{Action, Affected, Alternative, ChangeBefore, Place};
use crate::samples::{START, incident};

const LINKS: &str = "https://gatewatch.example";

fn later(s: u64) -> UnixMillis {
    START.plus(Duration::from_secs(s))
}

fn message(event: Event, incident: Incident, at: UnixMillis) -> Message {
    Message {
        event,
        delivery: "01JD4Z8QK0DE11VERYDE11VERY".into(),
        at,
        reason: "it began".into(),
        incident: Some(incident),
        before: None,
        changed_back: None,
        digest: Vec::new(),
        report: None,
    }
}

fn opened(incident: Incident) -> Page {
    Page::new(&message(Event::Opened, incident, later(247)), LINKS, None)
}

fn over(incident: Incident) -> Incident {
    let title = "37 of 41 sites on web-07 failed with 502 from 12:01:07 to 12:13:11: PHP-FPM pool \
                 www was exhausted";
    let resolved_at = Some(later(724));
    Incident { state: "resolved".into(), title: title.into(), resolved_at, ..incident }
}

fn facts(page: &Page) -> Vec<(&str, &str)> {
    page.facts.iter().map(|fact| (fact.name.as_str(), fact.value.as_str())).collect()
}

#[test]
fn an_opened_incident_says_since_when_how_much_why_and_what_to_do() {
    let page = opened(incident());
    assert_eq!(
        page.headline,
        "CRITICAL web-07: 37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www is \
         exhausted"
    );
    assert_eq!(page.link, format!("{LINKS}/incidents/01JD4Z8QK0A1B2C3D4E5F6G7H8"));
    assert_eq!(page.since, "2026-11-20T12:01:07.000Z");
    let expected = [
        ("Since", "12:01:07 UTC, 4 min ago"),
        ("Affected", "37 of 41 sites on web-07; 987 of 1,234 requests failed (987 x 502)"),
        ("Cause", "overload, 97 % sure"),
        (
            "Evidence",
            "[pool www] server reached pm.max_children setting (5), consider raising it (log, \
             12:01:06)",
        ),
        ("Changed before", "package: php8.2-fpm 8.2.7 to 8.2.29 at 12:00:02, 1 min before"),
        ("Next", "See whether the pool is up and how busy it is: systemctl status php8.2-fpm"),
    ];
    assert_eq!(facts(&page), expected);
    assert_eq!((page.sites.len(), page.n_sites_more), (2, 35));
    assert_eq!(page.servers, ["web-07"]);
    assert_eq!(page.resolved, None);
}

#[test]
fn a_resolution_says_how_long_how_many_failed_and_what_changed_back() {
    let back = "php8.2-fpm.service active again at 12:13:02, 9 s before the last failure";
    let message = Message {
        changed_back: Some(back.into()),
        ..message(Event::Resolved, over(incident()), later(724))
    };
    let page = Page::new(&message, LINKS, None);
    assert!(
        page.headline.starts_with("RESOLVED after 12 min: 37 of 41 sites"),
        "{}",
        page.headline
    );
    let expected = [
        ("Lasted", "12 min (12:01:07 to 12:13:11 UTC)"),
        ("Failed", "987 of 1,234 requests failed (987 x 502)"),
        ("Cause", "overload, 97 % sure"),
        ("Changed back", back),
    ];
    assert_eq!(facts(&page), expected);
}

#[test]
fn an_incident_that_went_into_another_says_that_it_goes_on() {
    let merged = Incident { parent: Some("01JPARENT".into()), ..over(incident()) };
    let long = format!("{} fails", "14 servers of hypervisor hv-3, ".repeat(9));
    for (of, id, title) in [
        ("01JPARENT: hypervisor hv-3 fails: steal", "01JPARENT", "hypervisor hv-3 fails: steal"),
        ("01JPARENT", "01JPARENT", "01JPARENT"),
        (&format!("01JPARENT: {long}"), "01JPARENT", long.as_str()),
    ] {
        let message = Message {
            reason: format!("{GOES_ON}{of}"),
            changed_back: Some("php8.2-fpm.service active again".into()),
            ..message(Event::Resolved, merged.clone(), later(724))
        };
        let page = Page::new(&message, LINKS, None);
        assert!(page.headline.starts_with("MERGED: 37 of 41 sites"), "{}", page.headline);
        let told = format!(", goes on as part of {}", &title[..title.len().min(20)]);
        assert!(page.headline.contains(told.trim_end()), "{}", page.headline);
        let resolved = page.resolved.as_ref().unwrap();
        assert_eq!(resolved.lasted_words, format!("12 min until it became part of {id}"));
        assert_eq!(resolved.changed_back, None);
        let facts = facts(&page);
        assert_eq!(facts[0].0, "Goes on as");
        assert_eq!(facts[1].1, format!("{} (12:01:07 UTC, 12 min ago)", resolved.lasted_words));
    }
    // Merged, and over with what it went into.
    let page = Page::new(&message(Event::Resolved, merged, later(724)), LINKS, None);
    assert!(page.headline.starts_with("RESOLVED after 12 min: "), "{}", page.headline);
}

#[test]
fn where_nothing_was_counted_nothing_failed_in_words() {
    let whole = Affected { n_servers: 1, ..Affected::default() };
    let silent = at_place("silence", "server", on(Some("web-07"), None, "web-07"), whole);
    for (incident, is_counted) in [(silent, false), (incident(), true)] {
        let page = Page::new(&message(Event::Resolved, over(incident), later(724)), LINKS, None);
        assert_eq!(page.resolved.unwrap().failed_words.is_some(), is_counted);
    }
}

#[test]
fn a_group_says_whom_to_call_in_short_and_what_to_run() {
    let script = Script::default().fleet(8, 4, |n| format!("hypervisor=hv-{}", n.min(6))).fleet(
        6,
        4,
        |_| "hypervisor=hv-9".to_owned(),
    );
    let script = (9..=14).fold(script, |script, n| {
        script.unit(-30, n, "php8.2-fpm.service", "active").unit(
            20,
            n,
            "php8.2-fpm.service",
            "failed",
        )
    });
    let script = script.run(0, 45, 4, |def, second| match (def.server, second) {
        (9.., 20..) => Fate::Fail(502, REFUSED),
        _ => Fate::Ok,
    });
    let incident = script.play(45).only_open();
    assert_eq!(incident.scope, "group");
    let [first, rest @ ..] = &incident.actions[..] else { panic!("it has steps") };
    assert_eq!(first.command, None);
    let now = incident.detected_at;
    let page = Page::new(&message(Event::Opened, incident.clone(), now), LINKS, None);
    let step = page.command.unwrap();
    assert_eq!(step.command, rest.iter().find_map(|action| action.command.clone()));
    assert!(step.command.is_some() && step.text.chars().count() <= 200, "{step:?}");
    assert!(step.text.starts_with("server admin: 6 servers fail together"), "{step:?}");
    assert!(step.text.contains("Show: 12:00:") && !step.text.contains("2026-"), "{step:?}");
}

#[test]
fn an_update_and_an_escalation_say_why_they_come() {
    let mut update = message(Event::Updated, incident(), later(300));
    update.reason = "from pool to server scope".into();
    let page = Page::new(&update, LINKS, None);
    assert!(page.headline.starts_with("UPDATE from pool to server scope: 37 of"));
    assert_eq!(facts(&page)[0], ("Why now", "from pool to server scope"));
    let mut late = message(Event::Opened, incident(), later(900));
    late.reason = "nobody acknowledged it for 15m".into();
    let page = Page::new(&late, LINKS, None);
    assert_eq!(facts(&page)[0], ("Why now", "nobody acknowledged it for 15m"));
}

#[test]
fn a_digest_lists_its_incidents_and_a_test_says_that_it_is_one() {
    let mut digest = message(Event::Digest, incident(), later(86_400));
    digest.incident = None;
    digest.reason = "since yesterday 08:00".into();
    digest.digest = vec![over(incident()), incident()];
    let page = Page::new(&digest, LINKS, None);
    assert_eq!(page.headline, "2 incidents since yesterday 08:00");
    assert_eq!((page.severity.as_str(), page.link.as_str()), ("critical", LINKS));
    assert_eq!(page.digest[0].lasted_words.as_deref(), Some("12 min"));
    assert_eq!(page.digest[0].since_words, "20 Nov 12:01:07 to 20 Nov 12:13:11 UTC");
    assert_eq!(page.digest[1].lasted_words, None);
    assert_eq!(page.digest[1].since_words, "20 Nov 12:01:07 UTC, 1 d ago");
    assert!(page.facts.is_empty());
    let of = |severity: &str| Incident { severity: severity.into(), ..incident() };
    digest.digest = vec![of("info"), of("critical"), of("warning"), of("critical")];
    let page = Page::new(&digest, LINKS, None);
    let severities: Vec<&str> = page.digest.iter().map(|entry| &*entry.severity).collect();
    assert_eq!(severities, ["critical", "critical", "warning", "info"], "the worst first");
    digest.digest = vec![incident(); 70];
    let page = Page::new(&digest, LINKS, None);
    assert_eq!((page.digest.len(), page.n_digest_more), (50, 20));
    digest.digest.clear();
    assert_eq!(Page::new(&digest, LINKS, None).headline, "no incidents since yesterday 08:00");
    let test = Page::new(&message(Event::Test, incident(), later(1)), LINKS, None);
    assert!(test.headline.starts_with("TEST: 37 of 41"), "{}", test.headline);
    assert_eq!(test.link, format!("{LINKS}/readyz"), "of a test there is no incident to be shown");
    digest.event = Event::Test;
    assert_eq!(Page::new(&digest, LINKS, None).headline, "TEST: gatewatch can reach you here");
}

fn group() -> Place {
    Place {
        label: Some("hypervisor".into()),
        value: Some("hv-3".into()),
        members: (1..=14).map(|n| format!("web-{n:02}")).collect(),
        ..Place::default()
    }
}

fn at_place(kind: &str, scope: &str, place: Place, affected: Affected) -> Incident {
    Incident { kind: kind.into(), scope: scope.into(), place, affected, ..incident() }
}

fn on(server: Option<&str>, pool: Option<&str>, member: &str) -> Place {
    Place {
        server: server.map(Into::into),
        pool: pool.map(Into::into),
        members: vec![member.into()],
        ..Place::default()
    }
}

/// Checks the words of an incident while it is open and when it is over.
fn check(incident: Incident, short: &str, now: &str, then: &str) {
    assert_eq!(place::short(&incident), short);
    assert_eq!(opened(incident.clone()).affected_words, now);
    let is_counted = incident.affected.n_requests > 0;
    let page = Page::new(&message(Event::Resolved, over(incident), later(724)), LINKS, None);
    assert_eq!(page.affected_words, then);
    assert_eq!(facts(&page).iter().any(|(name, _)| *name == "Failed"), is_counted, "{now}");
}

#[test]
fn failing_sites_are_counted_where_they_are() {
    let counted = |n_sites, n_sites_active, n_servers| Affected {
        n_sites,
        n_sites_active,
        n_servers,
        n_requests: 12_345,
        n_gateway_errors: 2000,
        n_502: 100,
        n_504: 1900,
        ..Affected::default()
    };
    let site = on(Some("web-07"), None, "web-07/a.example");
    let pool = on(Some("web-07"), Some("www"), "web-07/www");
    let backend = on(None, Some("10.0.0.5:8080"), "web-07/10.0.0.5:8080");
    let cohort = Place { members: group().members, ..Place::default() };
    for (kind, scope, place, affected, short, words) in [
        (
            "gateway_errors",
            "site",
            site,
            counted(1, 1, 1),
            "a.example on web-07",
            "a.example on web-07",
        ),
        (
            "slow_burn",
            "pool",
            pool,
            counted(3, 40, 1),
            "pool www on web-07",
            "3 of 40 sites of pool www on web-07",
        ),
        (
            "gateway_errors",
            "pool",
            backend,
            counted(9, 9, 3),
            "backend 10.0.0.5:8080",
            "9 of 9 sites on 3 servers",
        ),
        (
            "gateway_errors",
            "group",
            group(),
            counted(2800, 2900, 14),
            "hypervisor hv-3",
            "2,800 of 2,900 sites on 14 servers of hypervisor hv-3",
        ),
        (
            "gateway_errors",
            "group",
            cohort,
            counted(20, 21, 14),
            "14 servers",
            "20 of 21 sites on 14 servers",
        ),
    ] {
        let failed = "2,000 of 12,345 requests failed (1,900 x 504, 100 x 502)";
        let words = format!("{words}; {failed}");
        check(at_place(kind, scope, place, affected), short, &words, &words);
    }
}

#[test]
fn whole_servers_have_words_of_their_own_and_no_requests() {
    let silent =
        |n_sites_active, n_servers| Affected { n_sites_active, n_servers, ..Affected::default() };
    let labels = [("image".into(), "deb12".into()), ("region".into(), "eu".into())].into();
    let pair = Place { label: None, value: None, labels: Some(labels), ..group() };
    for (kind, place, affected, short, who, what) in [
        (
            "silence",
            on(Some("web-07"), None, "web-07"),
            silent(41, 1),
            "web-07",
            "web-07",
            ("sends nothing", "sent nothing", "; 41 sites were active there"),
        ),
        (
            "silence",
            group(),
            silent(0, 14),
            "hypervisor hv-3",
            "14 servers of hypervisor hv-3",
            ("send nothing", "sent nothing", ""),
        ),
        (
            "pressure",
            pair,
            silent(1, 14),
            "image deb12 and region eu",
            "14 servers of image deb12 and region eu",
            ("lose processor time", "lost processor time", "; 1 site was active there"),
        ),
        (
            "services",
            group(),
            silent(287, 14),
            "hypervisor hv-3",
            "14 servers of hypervisor hv-3",
            ("have a failed service", "had a failed service", "; 287 sites were active there"),
        ),
    ] {
        let scope = if place.server.is_some() { "server" } else { "group" };
        let (now, then, sites) = what;
        let words = |does: &str| format!("{who} {does}{sites}");
        check(at_place(kind, scope, place, affected), short, &words(now), &words(then));
    }
}

#[test]
fn a_cause_names_a_close_rival_and_is_never_certain() {
    for (class, confidence, rival, expected) in [
        ("overload", 0.974, None, "overload, 97 % sure"),
        ("crash", 1.0, Some(("oom", 0.05)), "crash, 99 % sure"),
        ("oom", 0.6, Some(("overload", 0.35)), "out of memory, 60 % sure; perhaps overload, 35 %"),
        ("site_code", 0.88, None, "the site's own code, 88 % sure"),
        ("unknown", 0.0, None, "unknown"),
        ("unknown", 0.4, Some(("dns", 0.3)), "unknown; perhaps DNS, 30 %"),
    ] {
        let alternatives = rival
            .into_iter()
            .map(|(class, confidence)| Alternative { class: class.to_owned(), confidence });
        let cause = Cause {
            class: class.into(),
            confidence,
            evidence: Vec::new(),
            alternatives: alternatives.collect(),
        };
        assert_eq!(cause_words(&cause).unwrap().words, expected);
    }
}

#[test]
fn the_two_strongest_pieces_of_evidence_are_told_and_no_prior() {
    let piece = |kind: &str, text: &str, server: Option<&str>, weight| Evidence {
        kind: kind.into(),
        text: text.into(),
        at: START,
        server: server.map(Into::into),
        weight,
    };
    let mut incident = at_place("gateway_errors", "group", group(), Affected::default());
    incident.cause.evidence = vec![
        piece("prior", "how often overload is the cause for a group", None, 9.0),
        piece("log", "weak", Some("web-01"), 0.5),
        piece("service", "php8.2-fpm.service is failed", Some("web-02"), 4.0),
        piece("log", "connect() failed", Some("web-03"), 3.0),
        piece("resource", "against it", None, -2.0),
    ];
    let page = opened(incident);
    assert_eq!(
        page.evidence,
        [
            "php8.2-fpm.service is failed (web-02, 12:01:07)",
            "connect() failed (log of web-03, 12:01:07)"
        ]
    );
}

#[test]
fn hostile_and_endless_texts_are_one_bounded_line_each() {
    let nasty = "a\r\nBcc: all@example\u{202e}\u{7}<script>".repeat(1000);
    let mut bad = incident();
    bad.title.clone_from(&nasty);
    bad.severity.clone_from(&nasty);
    bad.id.clone_from(&nasty);
    bad.place.server = Some(nasty.clone());
    bad.place.sites = vec![nasty.clone(); 1000];
    bad.place.members = vec![nasty.clone(); 1000];
    bad.cause.class.clone_from(&nasty);
    bad.cause.evidence[0].text.clone_from(&nasty);
    bad.cause.evidence[0].server = Some(nasty.clone());
    bad.change = Some(ChangeBefore {
        kind: nasty.clone(),
        text: nasty.clone(),
        at: UnixMillis(i64::MAX),
        score: f64::NAN,
    });
    bad.actions = vec![Action { text: nasty.clone(), command: Some(nasty.clone()) }];
    let mut told = message(Event::Resolved, over(bad.clone()), later(1));
    told.changed_back = Some(nasty.clone());
    told.reason.clone_from(&nasty);
    told.digest = vec![bad; 100];
    for event in [Event::Opened, Event::Updated, Event::Resolved, Event::Digest, Event::Test] {
        told.event = event;
        let page = Page { incident: None, ..Page::new(&told, LINKS, None) };
        let json = serde_json::to_value(&page).unwrap();
        assert!(json.to_string().len() < 100_000, "{}", json.to_string().len());
        assert!(page.headline.chars().count() <= 240);
        let mut left = vec![json];
        while let Some(value) = left.pop() {
            match value {
                serde_json::Value::String(text) => {
                    assert!(!text.contains(['\r', '\n', '\u{7}', '\u{202e}']), "{text}");
                    assert!(text.chars().count() <= 1200, "{text}");
                }
                serde_json::Value::Array(all) => left.extend(all),
                serde_json::Value::Object(all) => left.extend(all.into_iter().map(|(_, v)| v)),
                _ => {}
            }
        }
    }
}

#[test]
fn a_page_with_a_chart_has_blocks_and_their_words() {
    let mut chart = Chart::new(later(0), later(60));
    chart.add(later(10), 10, 5);
    let page = Page::new(&message(Event::Opened, incident(), later(60)), LINKS, Some(&chart));
    assert_eq!(page.spark, Some(chart.spark()));
    let words = page.chart.unwrap();
    assert_eq!((words.from.as_str(), words.to.as_str()), ("12:01", "12:02"));
    assert_eq!(words.words, "At worst 5 of 10 requests failed in 5 s");
}
