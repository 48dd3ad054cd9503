//! What people read of each message, service by service: all that matters, and nothing twice.

use super::tests::{body, sample, schema};
use super::*;
use crate::notify::alertmanager;
use crate::notify::chart::Chart;

/// Services whose messages people read; the webhook carries the incident as it is.
const KINDS: [&str; 8] =
    ["alertmanager", "slack", "teams", "discord", "telegram", "ntfy", "pagerduty", "opsgenie"];

const LASTED: &str = "12 min";
const TITLE: &str =
    "37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www is exhausted";
const FAILED: &str = "987 of 1,234 requests failed";
const CAUSE: &str = "overload, 97 % sure";
const EVIDENCE: [&str; 2] =
    ["server reached pm.max_children setting (5)", "all 5 workers of pool www are busy"];
const CHANGE: &str = "php8.2-fpm 8.2.7 to 8.2.29";
const COMMAND: &str = "systemctl status php8.2-fpm";
const GREW: &str = "the whole server fails now";
const BACK: &str = "php8.2-fpm.service active again at 12:12:40";
const NOBODY: &str = "nobody acknowledged it in time";

fn told(event: Event) -> Message {
    let mut message = sample(Event::Opened);
    message.event = event;
    let incident = message.incident.as_mut().unwrap();
    if event == Event::Updated {
        message.reason = GREW.into();
        message.before = Some(incident.clone());
    }
    if event == Event::Resolved {
        let end = incident.started_at.plus(std::time::Duration::from_secs(12 * 60));
        (incident.state, incident.resolved_at) = ("resolved".into(), Some(end));
        message.changed_back = Some(BACK.into());
        message.at = end;
    }
    message
}

fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| strings(value, found)),
        Value::Object(object) => object.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}

/// What a person reads of a body, a line each, with escapes undone; addresses behind it are left in.
fn shown(kind: &str, body: &Value) -> String {
    let seen = match kind {
        "alertmanager" => &body[0]["annotations"],
        "slack" => &body["blocks"],
        "discord" => &body["embeds"],
        _ => body,
    };
    let mut found = Vec::new();
    strings(seen, &mut found);
    let text = found.join("\n").replace('\u{200b}', "");
    match kind {
        "slack" => text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"),
        "discord" => {
            let mut is_escaped = false;
            let keep = |c: &char| {
                is_escaped = *c == '\\' && !is_escaped;
                !is_escaped
            };
            text.chars().filter(keep).collect()
        }
        "telegram" => {
            let html = body.get("caption").unwrap_or(&body["text"]).as_str().unwrap();
            let link = html.split("href=\"").nth(1).and_then(|rest| rest.split('"').next());
            format!("{}\n{}", schema::telegram_text(html).unwrap(), link.unwrap_or_default())
        }
        _ => text,
    }
}

/// The text of a message in a service.
fn said(kind: &'static str, message: &Message, has_chart: bool) -> String {
    let step = match (kind, message.event) {
        ("pagerduty" | "opsgenie", Event::Resolved) => Step::Close,
        ("opsgenie", Event::Updated) => Step::Note,
        _ => Step::Open,
    };
    said_at(kind, message, has_chart, step)
}

fn said_at(kind: &'static str, message: &Message, has_chart: bool, step: Step) -> String {
    let incident = message.incident.as_ref().unwrap();
    let mut chart = Chart::new(incident.started_at, message.at);
    chart.add(incident.started_at, 9, 9);
    let page = Page::new(message, "https://gatewatch.example", Some(&chart));
    let alerts = alertmanager::alerts(&page, incident, None, message.at);
    let extras = Extras { alerts, has_chart, step, chat_id: "-1".into(), topic: "t".into() };
    let body = body(&Template::new(kind, None).unwrap(), &seen(message, &page, &extras));
    assert_eq!(schema::Schema::of(kind).problems(&body), Vec::<String>::new(), "{kind}");
    shown(kind, &body)
}

#[test]
fn every_service_says_all_that_matters_of_each_message_and_nothing_of_it_twice() {
    let id = sample(Event::Opened).incident.unwrap().id;
    let failing = [TITLE, "12:01:07 UTC", FAILED, CAUSE, EVIDENCE[0], EVIDENCE[1], CHANGE, COMMAND];
    let failing = || failing.into_iter().chain([id.as_str()]);
    let escalated = Message { reason: NOBODY.into(), ..told(Event::Opened) };
    // The picture of Telegram leaves room for these too.
    let cases: [(Message, Vec<&str>); 4] = [
        (told(Event::Opened), failing().collect()),
        (escalated, failing().chain([NOBODY]).collect()),
        (told(Event::Updated), failing().chain([GREW]).collect()),
        (
            told(Event::Resolved),
            vec![TITLE, LASTED, "12:01:07 to 12:13:07", FAILED, CAUSE, BACK, &id],
        ),
    ];
    for (message, words) in cases {
        for (kind, has_chart) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            if kind == "pagerduty" && message.event == Event::Resolved {
                continue; // it takes nothing but the key of what is over
            }
            let text = said(kind, &message, has_chart);
            let shown = format!("{kind} {:?} {has_chart}: {text}", message.event);
            for word in &words {
                assert!(text.contains(word), "no {word:?} in {shown}");
            }
            for once in [NOBODY, GREW, LASTED, BACK, COMMAND, FAILED, CHANGE, EVIDENCE[0]] {
                let n = text.matches(once).count();
                assert_eq!(n, usize::from(words.contains(&once)), "{once:?} in {shown}");
            }
        }
    }
}

#[test]
fn an_end_of_which_nothing_was_counted_has_no_empty_words() {
    for kind in ["silence", "services", "pressure"] {
        let mut message = told(Event::Resolved);
        let incident = message.incident.as_mut().unwrap();
        incident.kind = kind.into();
        incident.affected = Affected { n_servers: 1, ..Affected::default() };
        for service in KINDS.into_iter().filter(|kind| *kind != "pagerduty") {
            for changed_back in [Some(BACK.to_owned()), None] {
                let text = said(service, &Message { changed_back, ..message.clone() }, false);
                assert!(text.contains(LASTED), "{service}: {text}");
                for odd in ["; .", "; \n", "It lasted", "Failed:", "null", "none"] {
                    assert!(!text.contains(odd), "{odd:?} in {service}: {text}");
                }
                let is_empty = |line: &&str| line.trim_end().ends_with(':');
                // Only Teams has names and values on lines of their own.
                let empty = text.lines().find(is_empty).filter(|_| service != "teams");
                assert_eq!(empty, None, "{service}: {text}");
            }
        }
    }
}

#[test]
fn below_a_picture_telegram_has_both_evidences_the_change_and_a_whole_command_or_none() {
    let mut message = told(Event::Opened);
    let incident = message.incident.as_mut().unwrap();
    let long = |name: &str, n: usize| format!("{name} {}", "x".repeat(n - name.len() - 1));
    incident.title = long("title", 180);
    for (ix, evidence) in incident.cause.evidence.iter_mut().enumerate() {
        evidence.text = long(&format!("evidence-{ix}"), 80);
    }
    incident.change.as_mut().unwrap().text = long("change", 60);
    for (n, is_there) in [(110, true), (390, false)] {
        let command = long("journalctl", n);
        let incident = message.incident.as_mut().unwrap();
        incident.actions[0].command = Some(command.clone());
        let texts = incident.cause.evidence.iter().map(|evidence| evidence.text.clone());
        let mut words: Vec<String> = texts.collect();
        words.extend([incident.title.clone(), incident.change.as_ref().unwrap().text.clone()]);
        let text = said("telegram", &message, true);
        for word in words {
            assert!(text.contains(&word), "no {word} in {text}");
        }
        let found = (text.contains(&command), text.contains("journalctl"));
        assert_eq!(found, (is_there, is_there), "{text}");
        assert!(said("telegram", &message, false).contains(&command), "there is room without one");
    }
}

#[test]
fn an_alert_of_opsgenie_is_titled_as_if_it_had_just_begun() {
    let opened = said("opsgenie", &told(Event::Opened), false);
    let title = opened.lines().find(|line| line.contains(TITLE)).unwrap();
    assert!(title.starts_with("CRITICAL web-07: "), "{title}");
    let grown = said_at("opsgenie", &told(Event::Updated), false, Step::Open);
    assert!(grown.lines().any(|line| line == title), "{grown}");
}
