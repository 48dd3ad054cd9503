//! `notify ...`: what was told to whom, how each route stands, a test.

use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use wire::UnixMillis;

use super::client::{Client, Failure};
use super::render::{table, trimmed};
use super::text::{clean, instant, labels, plural, span};
use super::{Answer, answer};
use crate::cli::{NotifyCommand, NotifyLog, exit};
use crate::clock;
use crate::store::notices::Notice;
use crate::web::notify::{LogQuery, RouteView, Tested};

pub(super) async fn notify(command: NotifyCommand, client: &Client) -> Result<Answer, Failure> {
    Ok(match command {
        NotifyCommand::Log(wanted) => log(wanted, client).await?,
        NotifyCommand::Routes { json } => {
            let found: Vec<RouteView> = client.get(&["notify", "routes"], &()).await?;
            answer(json, &found, |found| routes(found, clock::now()))
        }
        NotifyCommand::Test { route, all: _, json } => test(route, json, client).await?,
    })
}

async fn log(wanted: NotifyLog, client: &Client) -> Result<Answer, Failure> {
    let query = LogQuery {
        incident: wanted.incident,
        route: wanted.route,
        since: wanted.since.map(|since| since.at(clock::now()).to_rfc3339()),
        limit: Some(wanted.limit),
    };
    let found: Vec<Notice> = client.get(&["notify", "log"], &query).await?;
    let mut told = answer(wanted.json, &found, notices);
    if found.len() == wanted.limit as usize {
        told.talk = format!("the newest {}; more with --limit", plural(found.len() as u64, "line"));
    }
    Ok(told)
}

/// How a test of one route ended, as `--json` prints it.
#[derive(Serialize)]
#[serde(untagged)]
enum Trial {
    Arrived(Tested),
    Failed { route: String, ok: bool, error: String, fix: String },
}

/// Of one route, or of all, one after the other.
async fn test(route: Option<String>, json: bool, client: &Client) -> Result<Answer, Failure> {
    let names = if let Some(name) = route {
        vec![name]
    } else {
        let found: Vec<RouteView> = client.get(&["notify", "routes"], &()).await?;
        found.into_iter().map(|view| view.route).collect()
    };
    if names.is_empty() {
        return Ok(Answer {
            talk: "there is no route: add a [[notify]] table and restart the collector".into(),
            code: exit::NO,
            ..Answer::default()
        });
    }
    let mut trials = Vec::new();
    for name in names {
        let path = ["notify", "routes", &name, "test"];
        trials.push(match client.put::<Tested>(Method::POST, &path, &json!({})).await {
            Ok(tested) => Trial::Arrived(tested),
            Err(Failure { error, fix, code: exit::NO }) => {
                Trial::Failed { route: name, ok: false, error, fix }
            }
            Err(failure) => return Err(failure),
        });
    }
    let mut told = answer(json, &trials, arrived);
    let failed: Vec<String> = trials.iter().filter_map(failed).collect();
    if !failed.is_empty() {
        told.talk = failed.join("\n");
        told.code = exit::NO;
    }
    Ok(told)
}

fn arrived(trials: &[Trial]) -> String {
    let line = |trial: &Trial| match trial {
        Trial::Arrived(t) => Some(format!(
            "{}: {} took the test in {} ms\n",
            clean(&t.route),
            clean(&t.place),
            t.took_ms
        )),
        Trial::Failed { .. } => None,
    };
    trials.iter().filter_map(line).collect()
}

fn failed(trial: &Trial) -> Option<String> {
    match trial {
        Trial::Arrived(_) => None,
        Trial::Failed { error, fix, .. } => {
            Some(format!("error: {}\n  fix: {}", clean(error), clean(fix)))
        }
    }
}

/// `notify log`
fn notices(notices: &[Notice]) -> String {
    if notices.is_empty() {
        return "Nothing was told or kept back.\n".into();
    }
    let mut table = table(&["AT", "ROUTE", "EVENT", "WHAT", "INCIDENT", "WHY"]);
    for notice in notices {
        let what = serde_json::to_value(notice.what).ok();
        let what = what.as_ref().and_then(|what| what.as_str()).unwrap_or("?");
        table.add_row(vec![
            instant(notice.at),
            clean(&notice.route),
            clean(&notice.event),
            what.to_owned(),
            notice.incident.as_deref().map_or("-".into(), clean),
            clean(&notice.why),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

/// `notify routes`
fn routes(routes: &[RouteView], now: UnixMillis) -> String {
    if routes.is_empty() {
        return "No routes: nobody is told. Add a [[notify]] table to collector.toml.\n".into();
    }
    let mut table = table(&["ROUTE", "TO", "HEARS", "WHEN", "OWED", "DELIVERED", "LAST ERROR"]);
    for view in routes {
        table.add_row(vec![
            clean(&view.route),
            format!("{} {}", clean(&view.kind), clean(&view.place)),
            hears(view),
            when(view),
            owed(view, now),
            view.last_delivered_at
                .map_or("never".into(), |at| format!("{} ago", span(now.since(at)))),
            view.last_error.as_ref().map_or("-".into(), |error| {
                format!("{} ago: {}", span(now.since(error.at)), clean(&error.why))
            }),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

fn hears(view: &RouteView) -> String {
    let mut text = clean(&view.min_severity);
    if !view.matches.is_empty() {
        text = format!("{text} {}", labels(&view.matches));
    }
    if !view.send_resolved {
        text.push_str(", no ends");
    }
    text
}

fn when(view: &RouteView) -> String {
    let zone = view.timezone.as_deref().map_or(String::new(), |zone| format!(" {}", clean(zone)));
    let times = |times: &[String]| format!("{}{zone}", clean(&times.join("; ")));
    let mut text = match (&view.hours[..], &view.digest[..]) {
        ([], []) => "always".to_owned(),
        (hours, []) => times(hours),
        (_, digest) => format!("digest {}", times(digest)),
    };
    if let Some(patience) = view.escalate_after {
        text = format!("{text}, unacknowledged for {patience}");
    }
    text
}

fn owed(view: &RouteView, now: UnixMillis) -> String {
    let mut parts = Vec::new();
    if view.n_owed > 0 {
        let tries = match view.n_tries {
            0 => String::new(),
            1 => ", 1 try in vain".to_owned(),
            n => format!(", {n} tries in vain"),
        };
        let waits = view.oldest_due_at.filter(|due| *due > now);
        let due = waits.map_or(String::new(), |due| format!(", next in {}", span(due.since(now))));
        parts.push(format!("{}{tries}{due}", view.n_owed));
    }
    if view.n_held > 0 {
        parts.push(format!("{} kept back", view.n_held));
    }
    if parts.is_empty() { "nothing".into() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use wire::units::Span;

    use super::*;
    use crate::samples::START;
    use crate::store::notices::What;
    use crate::web::notify::RouteError;

    fn after(s: u64) -> UnixMillis {
        START.plus(Duration::from_secs(s))
    }

    fn view() -> RouteView {
        RouteView {
            route: "oncall".into(),
            kind: "pagerduty".into(),
            place: "https://events.pagerduty.com".into(),
            min_severity: "critical".into(),
            matches: BTreeMap::from([("rack".into(), "r7".into())]),
            hours: vec!["Mon-Fri 08:00-18:00".into()],
            digest: Vec::new(),
            timezone: Some("Europe/Berlin".into()),
            escalate_after: Some(Span(Duration::from_secs(300))),
            send_resolved: true,
            n_owed: 2,
            n_tries: 3,
            oldest_due_at: Some(after(100)),
            n_held: 1,
            last_delivered_at: Some(START),
            last_error: Some(RouteError { at: START, why: "the receiver answered 400".into() }),
            n_delivered: 7,
            n_failed: 1,
        }
    }

    #[test]
    fn routes_show_what_they_hear_and_how_they_stand() {
        let text = routes(&[view()], after(90));
        for part in [
            "oncall",
            "pagerduty https://events.pagerduty.com",
            "critical rack=r7",
            "Mon-Fri 08:00-18:00 Europe/Berlin, unacknowledged for 5m",
            "2, 3 tries in vain, next in 10 s; 1 kept back",
            "1 min 30 s ago",
            "1 min 30 s ago: the receiver answered 400",
        ] {
            assert!(text.lines().nth(1).unwrap().contains(part), "{part}: {text}");
        }
        let plain = RouteView {
            hours: Vec::new(),
            escalate_after: None,
            n_owed: 0,
            n_held: 0,
            last_delivered_at: None,
            last_error: None,
            ..view()
        };
        let digest = RouteView { digest: vec!["08:00".into()], timezone: None, ..plain.clone() };
        let text = routes(&[plain, digest], after(90));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("always") && lines[1].contains("nothing"), "{text}");
        assert!(lines[1].contains("never") && lines[2].contains("digest 08:00 "), "{text}");
        assert!(routes(&[], START).contains("[[notify]]"));
    }

    #[test]
    fn the_log_is_a_table_in_which_strangers_texts_do_nothing() {
        let notice = Notice {
            at: START,
            incident: None,
            route: "oncall".into(),
            event: "test".into(),
            what: What::Refused,
            why: "it said \u{1b}[2J\nno".into(),
            delivery: None,
        };
        let text = notices(&[notice]);
        assert_eq!(text.lines().count(), 2, "{text}");
        for part in
            ["2026-11-20 12:01:07 UTC", "oncall", "test", "refused", "it said \\u{1b}[2J\\nno"]
        {
            assert!(text.lines().nth(1).unwrap().contains(part), "{part}: {text}");
        }
        assert_eq!(notices(&[]), "Nothing was told or kept back.\n");
    }
}
