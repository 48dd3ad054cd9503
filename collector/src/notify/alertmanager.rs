//! Alerts of Prometheus Alertmanager, API v2; pure.
//!
//! The labels are an alert's identity there: when those of an incident changed since the receiver heard
//! of it last, the alert with the old labels is ended beside the new one. An open alert ends 15 minutes
//! from now unless it comes again, so it must be sent again before that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use wire::UnixMillis;

use super::escape::clean;
use super::message::Event;
use super::page::Page;
use super::template;
use crate::model::Incident;

/// How long an open alert lasts without being sent again.
pub const OPEN_FOR: Duration = Duration::from_secs(15 * 60);

/// How long the alert of a try lasts.
const TEST_FOR: Duration = Duration::from_secs(5 * 60);

/// Labels of every alert; a label of the fleet with such a name is told as `label_NAME`.
const OWN_LABELS: [&str; 9] =
    ["alertname", "incident", "severity", "scope", "kind", "cause", "server", "pool", "site"];

/// The body of `POST /api/v2/alerts` that tells of `incident` as it stands at `now`. `before`: as the
/// receiver was told it last; `page`: the same incident in words.
#[must_use]
pub fn alerts(
    page: &Page,
    incident: &Incident,
    before: Option<&Incident>,
    now: UnixMillis,
) -> Vec<Value> {
    let is_test = page.event == Event::Test;
    let mut now_labels = labels(incident);
    if is_test {
        now_labels.insert("alertname".into(), "GatewatchTest".into());
        now_labels.insert("incident".into(), format!("test-{}", page.delivery));
    }
    let until = now.plus(if is_test { TEST_FOR } else { OPEN_FOR });
    // What was merged into another incident is over without a time of its own.
    let open_until = if page.event == Event::Resolved { now } else { until };
    let end = incident.resolved_at.filter(|_| !is_test).unwrap_or(open_until);
    let mut alerts = vec![alert(page, incident, &now_labels, end)];
    if let Some(before) = before {
        let old = labels(before);
        if old != now_labels {
            alerts.push(alert(page, before, &old, now));
        }
    }
    alerts
}

fn alert(
    page: &Page,
    incident: &Incident,
    labels: &BTreeMap<String, String>,
    end: UnixMillis,
) -> Value {
    let facts = template::details(page);
    let facts = facts.iter().map(|fact| format!("{}: {}", fact.name, fact.value));
    let description = facts.collect::<Vec<_>>().join("\n");
    let command = template::command(page).and_then(|next| next.command.clone()).unwrap_or_default();
    let mut annotations = BTreeMap::from([
        ("summary", clean(&page.headline)),
        ("description", clean(&description)),
        ("command", clean(&command)),
        ("link", clean(&page.link)),
    ]);
    annotations.retain(|_, text| !text.is_empty());
    let mut alert = json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": incident.started_at.to_rfc3339(),
        // An end before the start is refused.
        "endsAt": end.max(incident.started_at).to_rfc3339(),
    });
    if page.link.starts_with("http") {
        alert["generatorURL"] = page.link.clone().into();
    }
    alert
}

/// What makes the alert the one it is. A server, pool or site stands there when it is the only one.
fn labels(incident: &Incident) -> BTreeMap<String, String> {
    let place = &incident.place;
    let servers: BTreeSet<&str> =
        place.members.iter().map(|name| name.split('/').next().unwrap_or(name)).collect();
    let only_server = servers.first().copied().filter(|_| servers.len() == 1);
    let only_site = place.sites.first().filter(|_| incident.affected.n_sites == 1);
    let mut labels = BTreeMap::new();
    for (name, value) in [
        ("alertname", "GatewatchIncident"),
        ("incident", &incident.id),
        ("severity", &incident.severity),
        ("scope", &incident.scope),
        ("kind", &incident.kind),
        ("cause", &incident.cause.class),
        ("server", place.server.as_deref().or(only_server).unwrap_or_default()),
        ("pool", place.pool.as_deref().unwrap_or_default()),
        ("site", only_site.map(String::as_str).unwrap_or_default()),
    ] {
        labels.insert(name.to_owned(), clean(value));
    }
    let pair = place.label.iter().zip(&place.value);
    for (name, value) in pair.chain(place.labels.iter().flatten()) {
        labels.insert(label_name(name), clean(value));
    }
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// A label's name as every Alertmanager takes it: ASCII letters, digits and `_`, no digit first.
fn label_name(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let is_plain = safe.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_free = !OWN_LABELS.contains(&safe.as_str());
    if is_plain && is_free { safe } else { format!("label_{safe}") }
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::*;
    use crate::samples::{self, START};

    const NOW: UnixMillis = UnixMillis(START.0 + 60_000);

    fn told(event: Event, incident: &Incident, before: Option<&Incident>) -> Vec<Value> {
        let message = Message {
            event,
            delivery: "01JD4Z8QK0A1B2C3D4E5F6G7H9".into(),
            at: NOW,
            reason: "it began".into(),
            incident: Some(incident.clone()),
            before: before.cloned(),
            changed_back: None,
            digest: Vec::new(),
            report: None,
        };
        alerts(&Page::new(&message, "https://gw.example", None), incident, before, NOW)
    }

    #[test]
    fn an_open_incident_is_one_alert_that_ends_in_a_quarter_of_an_hour() {
        let alerts = told(Event::Opened, &samples::incident(), None);
        assert_eq!(alerts.len(), 1);
        let expected = json!({
            "alertname": "GatewatchIncident", "incident": samples::incident().id,
            "severity": "critical", "scope": "server", "kind": "gateway_errors",
            "cause": "overload", "server": "web-07", "pool": "www",
        });
        assert_eq!(alerts[0]["labels"], expected);
        assert_eq!(alerts[0]["startsAt"], START.to_rfc3339());
        assert_eq!(alerts[0]["endsAt"], NOW.plus(OPEN_FOR).to_rfc3339());
        let link = format!("https://gw.example/incidents/{}", samples::incident().id);
        assert_eq!(alerts[0]["generatorURL"], link);
        assert_eq!(alerts[0]["annotations"]["command"], "systemctl status php8.2-fpm");
    }

    #[test]
    fn a_resolved_incident_ends_with_the_labels_it_had() {
        let open = samples::incident();
        let over = Incident { state: "resolved".into(), resolved_at: Some(NOW), ..open.clone() };
        let alerts = told(Event::Resolved, &over, Some(&open));
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0]["labels"], told(Event::Opened, &open, None)[0]["labels"]);
        assert_eq!(alerts[0]["endsAt"], NOW.to_rfc3339());
    }

    #[test]
    fn an_incident_that_was_merged_into_another_ends_now_and_not_in_a_quarter_of_an_hour() {
        let open = samples::incident();
        assert_eq!(open.resolved_at, None);
        let alerts = told(Event::Resolved, &open, Some(&open));
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0]["endsAt"], NOW.to_rfc3339());
        assert_eq!(alerts[0]["annotations"]["command"], Value::Null, "there is nothing to do");
    }

    #[test]
    fn other_labels_end_the_alert_with_the_old_ones_in_the_same_post() {
        let before = samples::incident();
        let mut wider = Incident { scope: "group".into(), ..before.clone() };
        wider.place.server = None;
        wider.place.members = vec!["web-07".into(), "web-08".into()];
        (wider.place.label, wider.place.value) = (Some("server".into()), Some("a b".into()));
        let alerts = told(Event::Updated, &wider, Some(&before));
        assert_eq!(alerts.len(), 2);
        assert_eq!(alerts[0]["labels"]["label_server"], "a b", "no label of ours is replaced");
        assert_eq!(alerts[0]["labels"]["server"], Value::Null, "there are two");
        assert_eq!(alerts[1]["labels"], told(Event::Opened, &before, None)[0]["labels"]);
        assert_eq!(alerts[1]["endsAt"], NOW.to_rfc3339());
        assert_eq!(alerts[0]["endsAt"], NOW.plus(OPEN_FOR).to_rfc3339());
    }

    #[test]
    fn a_try_is_an_alert_of_its_own_that_ends_by_itself() {
        let alerts = told(Event::Test, &samples::incident(), None);
        assert_eq!(alerts[0]["labels"]["alertname"], "GatewatchTest");
        assert_eq!(alerts[0]["labels"]["incident"], "test-01JD4Z8QK0A1B2C3D4E5F6G7H9");
        assert_eq!(alerts[0]["endsAt"], NOW.plus(TEST_FOR).to_rfc3339());
    }

    #[test]
    fn names_of_labels_are_those_every_alertmanager_takes() {
        for (name, expected) in [
            ("hypervisor", "hypervisor"),
            ("rack-no.", "rack_no_"),
            ("5th", "label_5th"),
            ("severity", "label_severity"),
            ("ünit", "label__nit"),
        ] {
            assert_eq!(label_name(name), expected);
        }
    }
}
