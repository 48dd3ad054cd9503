//! `[[report.schedule]]`: reports that are sent by themselves.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One report, when it is sent, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// What about: `capacity`, `outage` or `noise`.
    pub kind: String,
    /// Its name, unique; default `KIND:INDEX`.
    pub name: Option<String>,
    /// Name of the e-mail route that sends it.
    pub route: String,
    /// Who gets it; empty: the receivers of the route.
    pub to: Vec<String>,
    /// When: `Mon 08:00`, or `1st 08:00` for a day of the month.
    pub at: Vec<String>,
    /// Time zone of `at` and of the days it is over; default: the machine's.
    pub timezone: Option<String>,
    /// What it is over: whole days before (`7d`), the calendar month before (`month`), or hours (`12h`);
    /// default: `month` where `at` names a day of the month, else `7d`.
    pub period: Option<String>,
    /// Only this server.
    pub server: Option<String>,
    /// Only servers with all of these labels.
    pub label: BTreeMap<String, String>,
    /// Labels by whose values servers are put together; empty: `[report] by`.
    pub by: Vec<String>,
    /// Another objective than `[report] slo`.
    pub slo: Option<f64>,
}

impl ScheduleConfig {
    /// Its name; `index` is its place in the file, from 0.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}:{index}", self.kind))
    }
}
