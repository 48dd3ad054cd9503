//! What the detector told: the lines of `gatewatch-collector replay`, as incidents.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

/// An incident as it stood after one line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Collector's clock, ms.
    pub(crate) at: i64,
    pub(crate) event: String,
    pub(crate) is_open: bool,
    pub(crate) scope: String,
    pub(crate) members: BTreeSet<String>,
    pub(crate) sites: BTreeSet<String>,
    pub(crate) cause: String,
    pub(crate) runner_up: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) change: Option<String>,
}

/// One incident from its first line to its last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) started_at: i64,
    pub(crate) detected_at: i64,
    pub(crate) resolved_at: Option<i64>,
    pub(crate) retroactive: bool,
    pub(crate) title: String,
    /// In order; never empty.
    pub(crate) states: Vec<State>,
}

impl Told {
    pub(crate) fn last(&self) -> &State {
        self.states.last().expect("an incident has a first line")
    }

    /// The last state while it was open and not later than `until`; else its first.
    pub(crate) fn during(&self, until: i64) -> &State {
        let open = |state: &&State| state.at <= until && state.is_open;
        self.states.iter().rev().find(open).unwrap_or(&self.states[0])
    }

    /// Part of another incident: nobody is told of it.
    pub(crate) fn is_part(&self) -> bool {
        self.last().parent.is_some()
    }

    /// Every server it ever named.
    pub(crate) fn servers(&self) -> BTreeSet<&str> {
        let members = self.states.iter().flat_map(|state| &state.members);
        members.map(|member| member.split('/').next().unwrap_or(member)).collect()
    }
}

/// Reads the output of `replay`.
pub(crate) fn read(output: &str) -> Result<Vec<Told>> {
    let mut by_id: BTreeMap<String, Told> = BTreeMap::new();
    for (n, line) in output.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("line {} of replay", n + 1))?;
        let incident = &value["incident"];
        if incident.is_null() {
            continue;
        }
        let id = text(incident, "id").context("an incident has an id")?;
        let told = by_id.entry(id.clone()).or_default();
        told.id = id;
        told.kind = text(incident, "kind").unwrap_or_default();
        told.title = text(incident, "title").unwrap_or_default();
        told.started_at = time(&incident["started_at"]).context("`started_at` is a time")?;
        told.detected_at = time(&incident["detected_at"]).context("`detected_at` is a time")?;
        told.resolved_at = time(&incident["resolved_at"]);
        told.retroactive = incident["retroactive"] == true;
        let place = &incident["where"];
        let runner_up = incident["cause"]["alternatives"][0]["class"].as_str();
        told.states.push(State {
            at: time(&value["at"]).context("`at` is a time")?,
            event: text(&value, "event").unwrap_or_default(),
            is_open: incident["state"] == "open",
            scope: text(incident, "scope").unwrap_or_default(),
            members: names(&place["members"]),
            sites: names(&place["sites"]),
            cause: text(&incident["cause"], "class").unwrap_or_default(),
            runner_up: runner_up.map(str::to_owned),
            parent: text(incident, "parent"),
            change: text(&incident["change"], "kind"),
        });
    }
    Ok(by_id.into_values().collect())
}

fn text(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_owned)
}

fn names(value: &Value) -> BTreeSet<String> {
    let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

/// Milliseconds since the epoch, from a number or RFC 3339.
fn time(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let stamp: jiff::Timestamp = value.as_str()?.parse().ok()?;
        Some(stamp.as_millisecond())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_id_are_one_incident_with_its_states() {
        let line = |event: &str, at: &str, state: &str| {
            format!(
                r#"{{"at":"{at}","event":"{event}","incident":{{"id":"A","kind":"gateway_errors",
                "state":"{state}","scope":"site","where":{{"members":["a/x"],"sites":["x"]}},
                "started_at":"2026-03-02T09:00:00.000Z","detected_at":"2026-03-02T09:00:01.500Z",
                "cause":{{"class":"oom","alternatives":[{{"class":"crash"}}]}}}}}}"#
            )
            .replace('\n', "")
        };
        let output = [
            line("open", "2026-03-02T09:00:01.500Z", "open"),
            line("resolve", "2026-03-02T09:02:00.000Z", "resolved"),
        ];
        let told = read(&output.join("\n")).unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].states.len(), 2);
        assert_eq!(told[0].detected_at - told[0].started_at, 1_500);
        assert_eq!(told[0].last().runner_up.as_deref(), Some("crash"));
        assert!(!told[0].last().is_open);
    }

    #[test]
    fn a_line_that_is_no_json_is_an_error_and_no_silence() {
        assert!(read("{\"at\":").is_err());
    }
}
