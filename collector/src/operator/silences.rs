//! `silence ...`: maintenance windows.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use reqwest::Method;
use wire::UnixMillis;

use super::client::{Client, Failure};
use super::render::{table, trimmed};
use super::text::{clean, instant, labels, plural, span};
use super::{Answer, answer, whoami};
use crate::cli::{SilenceAdd, SilenceCommand};
use crate::clock;
use crate::notify::hours;
use crate::web::silences::{EndQuery, NewSilence, SilenceQuery, SilenceRequest, SilenceView};

pub(super) async fn silence(command: SilenceCommand, client: &Client) -> Result<Answer, Failure> {
    Ok(match command {
        SilenceCommand::Add(add) => {
            let json = add.json;
            let zone = hours::time_zone(None).expect("every machine has a zone");
            let (request, taken) = request(add, clock::now(), &zone)?;
            let made: NewSilence = client.put(Method::POST, &["silences"], &request).await?;
            let hint = made
                .hint
                .as_deref()
                .map(|hint| format!("hint: {}: it silences nothing until one has it", clean(hint)));
            let mut told = answer(json, &[made], |made| new_silence(&made[0]));
            told.talk = taken.into_iter().chain(hint).collect::<Vec<_>>().join("\n");
            told
        }
        SilenceCommand::List { all, json } => {
            let query = SilenceQuery { all };
            let found: Vec<SilenceView> = client.get(&["silences"], &query).await?;
            answer(json, &found, |found| silences(found, clock::now()))
        }
        SilenceCommand::End { id, by } => {
            let query = EndQuery { by: Some(by.unwrap_or_else(whoami)) };
            client.delete_by(&["silences", &id], &query).await?;
            Answer::talk(format!(
                "silence {id} is over: what is still open and was kept back is told now"
            ))
        }
    })
}

/// What to ask for, and how clock times were taken. A span of `--until` counts from the begin.
fn request(
    add: SilenceAdd,
    now: UnixMillis,
    zone: &TimeZone,
) -> Result<(SilenceRequest, Vec<String>), Failure> {
    let mut matches = BTreeMap::new();
    for (key, value) in add.matches {
        if let Some(before) = matches.insert(key.clone(), value.clone()) {
            return Err(Failure::usage(
                format!("--match {key}={before} and {key}={value}: no server has both"),
                "make a silence of each, or use `*`",
            ));
        }
    }
    let begin = add.from.map_or(now, |from| from.instant(now, zone));
    let from = add.from.and_then(|from| from.taken(now, zone)).map(|how| format!("--from {how}"));
    let until = add.until.taken(begin, zone).map(|how| format!("--until {how}"));
    let request = SilenceRequest {
        matches,
        starts_at: add.from.map(|_| begin.to_rfc3339()),
        ends_at: add.until.instant(begin, zone).to_rfc3339(),
        reason: add.reason,
        by: add.by.unwrap_or_else(whoami),
    };
    Ok((request, from.into_iter().chain(until).collect()))
}

/// `silence add`
fn new_silence(made: &NewSilence) -> String {
    let silence = &made.view.silence;
    let from = match made.view.state.as_str() {
        "pending" => format!("from {} ", instant(silence.starts_at)),
        _ => String::new(),
    };
    format!(
        "Silence {} {from}until {}: {}\nIt covers {} and {} now. Pages are kept back, detection goes on.\n",
        clean(&silence.id),
        instant(silence.ends_at),
        labels(&silence.matches),
        plural(made.n_servers, "server"),
        plural(made.n_incidents, "open incident"),
    )
}

/// `silence list`
fn silences(silences: &[SilenceView], now: UnixMillis) -> String {
    if silences.is_empty() {
        return "No silences. `gatewatch-collector silence add` makes one.\n".into();
    }
    let mut table = table(&["ID", "STATE", "MATCH", "UNTIL", "BY", "REASON"]);
    for view in silences {
        let silence = &view.silence;
        let end = silence.end();
        let until = match view.state.as_str() {
            "ended" => {
                let by = silence.ended_by.as_deref().map(|by| format!(", ended by {}", clean(by)));
                format!("{}{}", instant(end), by.unwrap_or_default())
            }
            "pending" => {
                let begins = span(silence.starts_at.since(now));
                format!("{}, begins in {begins}", instant(end))
            }
            _ => format!("{}, {} left", instant(end), span(end.since(now))),
        };
        table.add_row(vec![
            clean(&silence.id),
            clean(&view.state),
            labels(&silence.matches),
            until,
            clean(&silence.by),
            clean(&silence.reason),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::units::Span;

    use super::*;
    use crate::operator::when::When;
    use crate::samples::START;
    use crate::store::silences::Silence;

    fn view(state: &str) -> SilenceView {
        let later = |s: i64| UnixMillis(START.0 + s * 1000);
        SilenceView {
            state: state.into(),
            silence: Silence {
                id: "01JD".into(),
                matches: BTreeMap::from([("rack".into(), "r7".into())]),
                starts_at: later(60),
                ends_at: later(7260),
                reason: "kernel\u{1b}[2J update".into(),
                by: "ann".into(),
                made_at: START,
                ended_at: None,
                ended_by: None,
            },
        }
    }

    fn add(matches: &[(&str, &str)], until: When, from: Option<When>) -> SilenceAdd {
        SilenceAdd {
            matches: matches.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            until,
            reason: "r".into(),
            from,
            by: Some("ann".into()),
            json: false,
        }
    }

    #[test]
    fn a_span_counts_from_the_begin_of_the_silence() {
        let hours = |n: u64| When::After(Span(Duration::from_secs(3600 * n)));
        for (until, from, expected) in [
            (hours(2), None, (None, "2026-11-20T14:01:07.000Z")),
            (
                hours(2),
                Some(hours(1)),
                (Some("2026-11-20T13:01:07.000Z"), "2026-11-20T15:01:07.000Z"),
            ),
            (
                When::At(START),
                Some(When::At(START)),
                (Some("2026-11-20T12:01:07.000Z"), "2026-11-20T12:01:07.000Z"),
            ),
        ] {
            let add = add(&[("rack", "r7")], until, from);
            let (made, taken) = request(add, START, &TimeZone::UTC).unwrap();
            assert_eq!((made.starts_at.as_deref(), made.ends_at.as_str()), expected);
            assert_eq!(taken, [""; 0]);
        }
        let twice = add(&[("server", "a"), ("server", "b")], hours(1), None);
        let failure = request(twice, START, &TimeZone::UTC).unwrap_err();
        assert!(failure.error.contains("no server has both"), "{failure}");
    }

    #[test]
    fn clock_times_are_the_next_ones_and_the_end_comes_after_the_begin() {
        let clock = |text: &str| When::parse(text).unwrap();
        let add = add(&[("rack", "r7")], clock("06:00"), Some(clock("22:00")));
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let (made, taken) = request(add, START, &zone).unwrap();
        assert_eq!(made.starts_at.as_deref(), Some("2026-11-20T21:00:00.000Z"));
        assert_eq!(made.ends_at, "2026-11-21T05:00:00.000Z");
        let expected = [
            "--from 22:00 is taken as 2026-11-20 22:00 CET (+01:00)",
            "--until 06:00 is taken as 2026-11-21 06:00 CET (+01:00)",
        ];
        assert_eq!(taken, expected);
    }

    #[test]
    fn silences_are_a_table() {
        assert!(silences(&[], START).starts_with("No silences. "));
        let now = START.plus(Duration::from_secs(30));
        let text = silences(&[view("pending"), view("active"), view("ended")], now);
        let lines: Vec<&str> = text.lines().collect();
        for (line, part) in [
            (0, "ID "),
            (1, "2026-11-20 14:02:07 UTC, begins in 30 s"),
            (2, "2026-11-20 14:02:07 UTC, 2 h left"),
            (3, "ended"),
            (3, "kernel\\u{1b}[2J update"),
            (3, "rack=r7"),
        ] {
            assert!(lines[line].contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_new_silence_says_what_it_covers() {
        let made = NewSilence { view: view("pending"), n_incidents: 1, n_servers: 2, hint: None };
        assert_eq!(
            new_silence(&made),
            "Silence 01JD from 2026-11-20 12:02:07 UTC until 2026-11-20 14:02:07 UTC: rack=r7\n\
             It covers 2 servers and 1 open incident now. Pages are kept back, detection goes on.\n"
        );
    }
}
