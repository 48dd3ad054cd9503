//! Every body is what its service takes, whatever the texts in it; and what an operator's template may do.

use std::path::PathBuf;

use proptest::prelude::*;
use schema::Schema;

use super::*;
use crate::notify::alertmanager;

#[path = "../../../../tests/harness/schema.rs"]
pub(super) mod schema;

/// Texts of people who wish us ill: each tries to leave its string, its line or its meaning.
const HOSTILE: [&str; 14] = [
    "<script>alert(1)</script>",
    "<!channel> <!here> <@U012345> <https://evil.example|gatewatch>",
    "@everyone @here <@123456789012345678> <#1>",
    "[click](javascript:alert(1)) ![x](https://evil.example/x.png)",
    "`code` ```fence``` *bold* _it_ ~~no~~ ||spoiler||",
    "a\0b\u{1b}[31mc\r\nd\u{7}",
    "\u{202e}moc.live\u{202c} \u{2066}x\u{2069}",
    "\\ud800 \\u0000 \\\" \\",
    "{{ 1234*5 }} {% for x in y %} {# no #} ${x} {{DATE(2017-02-14T06:00:00Z)}}",
    "\"},\"x\":{\"",
    "</b></a><a href=\"javascript:x\"> &lt; &#x3c; & < >",
    "# heading\n> quote\n- list\n1. list\n",
    "😀\u{fffd}\u{200d}é漢字",
    "",
];

pub(super) fn sample(event: Event) -> Message {
    samples().into_iter().find(|message| message.event == event).unwrap()
}

const EVENTS: [Event; 5] =
    [Event::Opened, Event::Updated, Event::Resolved, Event::Digest, Event::Test];

/// What a template sees when every text that people write or machines log is `text`.
fn seen_with(text: &str, event: Event, has_chart: bool) -> Value {
    let mut message = sample(event);
    message.reason = text.to_owned();
    message.changed_back = Some(text.to_owned());
    if let Some(incident) = &mut message.incident {
        incident.title = text.to_owned();
        incident.cause.class = text.to_owned();
        incident.place.server = Some(text.to_owned());
        incident.place.sites = vec![text.to_owned(); 3];
    }
    let page = Page::new(&message, "https://gatewatch.example", None);
    let incident = message.incident.as_ref();
    let alerts = incident
        .map(|incident| alertmanager::alerts(&page, incident, message.before.as_ref(), message.at));
    let extras = Extras {
        chat_id: "-100123".into(),
        topic: "gatewatch".into(),
        alerts: alerts.unwrap_or_default(),
        has_chart,
        step: Step::Open,
    };
    let mut seen = seen(&message, &page, &extras);
    let mut fact = json!({"name": "Evidence", "value": text});
    clean_texts(&mut fact);
    let text = fact["value"].clone();
    for name in
        ["headline", "title", "standing", "since_words", "affected_words", "change", "spark"]
    {
        seen[name] = text.clone();
    }
    seen["evidence"] = json!([text, text]);
    // As many as a page has at most.
    let names =
        ["Why now", "Since", "Affected", "Cause", "Evidence", "Evidence", "Changed before", "Next"];
    for list in ["facts", "details"] {
        seen[list] =
            names.iter().map(|name| json!({"name": name, "value": fact["value"]})).collect();
    }
    seen["command"] = json!({"text": text, "command": text});
    let line = json!({
        "headline": text, "link": "https://gatewatch.example/incidents/1", "since_words": text,
        "lasted_words": text, "severity": text,
    });
    if event == Event::Digest {
        seen["digest"] = Value::Array(vec![line; 60]);
    }
    if event == Event::Resolved {
        seen["resolved"] = json!({
            "lasted_words": text, "failed_words": text, "changed_back": text,
        });
    }
    seen
}

/// The body of a kind as its service gets it.
pub(super) fn body(template: &Template, seen: &Value) -> Value {
    let mut body = template.built_in(seen).unwrap_or_else(|why| panic!("{}: {why}", template.kind));
    if template.kind == "pagerduty" {
        body["routing_key"] = "0123456789abcdef0123456789abcdef".into();
    }
    body
}

fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
        Value::Object(object) => object.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// What of a body would be read as markup although we did not write it.
fn markup(kind: &str, body: &Value) -> Option<String> {
    let mut found = Vec::new();
    texts(body, &mut found);
    let ours = "https://gatewatch.example";
    found.into_iter().find(|text| match kind {
        "slack" => {
            text.match_indices('<').any(|(at, _)| !text[at + 1..].starts_with(ours))
                || text.contains(" @everyone") && !text.starts_with("```")
                || text.matches("```").count() % 2 == 1
        }
        "discord" => {
            let outside_code = text.split("```").step_by(2).collect::<String>();
            outside_code.contains("](")
                || text.contains("@everyone")
                || text.matches("```").count() > 2
        }
        "telegram" => text.contains("<script") || text.contains("javascript:x\">"),
        "opsgenie" => text.contains("<s") || text.contains("<a"),
        "webhook" | "alertmanager" | "pagerduty" | "ntfy" => text.contains("6170"),
        "teams" => text.contains("{{"),
        other => panic!("{other}"),
    })
}

fn check(text: &str, template: &Template, schema: &Schema) {
    for event in EVENTS {
        for has_chart in [false, true] {
            if event == Event::Digest && template.kind == "alertmanager" {
                continue; // nothing is posted
            }
            let mut seen = seen_with(text, event, has_chart);
            for step in Step::ALL {
                seen["step"] = step.name().into();
                let body = body(template, &seen);
                assert_eq!(schema.problems(&body), Vec::<String>::new(), "{event:?} {step:?}");
            }
            seen["step"] = "open".into();
            let body = body(template, &seen);
            let text: String = text.chars().take(200).collect();
            let shown = format!("{} {event:?} {has_chart} {text:?}", template.kind);
            assert_eq!(schema.problems(&body), Vec::<String>::new(), "{shown}");
            assert_eq!(markup(template.kind, &body), None, "{shown}");
        }
    }
}

#[test]
fn hostile_text_stays_text_in_every_body() {
    let long = format!("<b>*{}", "x<&`_".repeat(20_000));
    for (kind, _) in BUILT_IN {
        let (template, schema) = (Template::new(kind, None).unwrap(), Schema::of(kind));
        for text in HOSTILE.into_iter().chain([long.as_str(), "`", "\n"]) {
            check(text, &template, &schema);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_makes_a_body_that_the_service_takes(
        parts in prop::collection::vec(
            prop_oneof![
                any::<char>().prop_map(|c| c.to_string()),
                prop::sample::select(HOSTILE.to_vec()).prop_map(str::to_owned),
                prop::sample::select(vec!["<", "&", "\\", "`", "*", "\n", "{{", "@everyone", "\u{1F600}"])
                    .prop_map(|text| text.repeat(150)),
            ],
            0..12,
        )
    ) {
        for (kind, _) in BUILT_IN {
            check(&parts.concat(), &Template::new(kind, None).unwrap(), &Schema::of(kind));
        }
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.j2");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn an_operators_template_stands_in_place_of_the_built_in_one() {
    let text = "{\"say\": {{ headline|cut(8) }}, \"n\": {{ counts.n_sites }}, \"c\": {{ cause }}}";
    let (_dir, path) = file(text);
    let template = Template::new("slack", Some(&path)).unwrap();
    let message = sample(Event::Opened);
    let page = Page::new(&message, "https://gatewatch.example", None);
    let mut seen = seen(&message, &page, &Extras::default());
    seen["headline"] = "a\"}<b>\n{{ x }}".into();
    let body = template.own(&seen).unwrap().unwrap();
    assert_eq!((&body["say"], &body["n"]), (&json!("a\"}<b>\n…"), &json!(37)));
    assert_eq!(template.built_in(&seen).unwrap()["blocks"][0]["type"], "header");
    assert!(Template::new("slack", None).unwrap().own(&seen).is_none());
}

#[test]
fn a_template_that_cannot_tell_a_page_is_a_problem_of_the_configuration() {
    for (text, expected) in [
        ("{\"a\": {{ headline", "template_file:1"),
        ("{\n\"a\": {{ headlin }}}", "undefined value (in template_file:2): no `headlin`"),
        ("{\"a\": {{ resolved.lasted_words }}}", "template_file:1): no `resolved.lasted_words`"),
        ("{\"a\": {{ headline }}, \"b\": {{ cause.klass }}}", ": no `cause.klass`"),
        ("{\"a\": {{ headline|shout }}}", "unknown filter"),
        ("plain {{ headline }}", "it makes no JSON"),
        ("{% for x in range(99999) %}{% for y in range(99999) %}1{% endfor %}{% endfor %}", "fuel"),
        ("{% include \"/etc/passwd\" %}", "include"),
    ] {
        let (_dir, path) = file(text);
        let problem = Template::new("slack", Some(&path)).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
        assert!(problem.contains("own.j2: "), "{problem}");
    }
    let missing = Template::new("slack", Some(Path::new("/nowhere.j2"))).unwrap_err();
    assert!(missing.starts_with("/nowhere.j2: No such file"), "{missing}");
}

#[test]
fn the_webhook_carries_the_incident_as_it_is() {
    let template = Template::new("webhook", None).unwrap();
    for message in samples() {
        let page = Page::new(&message, "https://gatewatch.example", None);
        let body = body(&template, &seen(&message, &page, &Extras::default()));
        assert_eq!(body["incident"], serde_json::to_value(&message.incident).unwrap());
    }
}
