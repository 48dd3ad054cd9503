//! `[report]`: what reports take for granted, and the catalogue of plans beside the config.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Problem, ScheduleConfig, unreadable};
use crate::report::plans::Catalogue;
use crate::report::settings::{Limits, Settings};

/// Largest catalogue that is read, bytes.
const CATALOGUE_BYTES_MAX: u64 = 1 << 20;

/// `[report]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportConfig {
    /// Share of the minutes in which a site is to be outside of any incident, 0..1.
    pub slo: f64,
    /// Catalogue of the plans that can be had, from the folder of the config on; `None`: reports tell what a
    /// server needs, but no plan.
    pub plans: Option<PathBuf>,
    /// Labels by whose values servers are put together; empty: every label that at least two share.
    pub by: Vec<String>,
    /// Busy share of the processors above which a minute counts as too full.
    pub limit_cpu: f64,
    /// The same of memory.
    pub limit_memory: f64,
    /// Of swap.
    pub limit_swap: f64,
    /// Of disk space and inodes.
    pub limit_disk: f64,
    /// Of the time in which a disk is busy.
    pub limit_io: f64,
    /// Of the children of a PHP-FPM pool.
    pub limit_children: f64,
    /// Of the connections of a database or proxy.
    pub limit_connections: f64,
    /// Of the time in which something waits (PSI).
    pub limit_pressure: f64,
    /// Of the time of the processors that is stolen.
    pub limit_steal: f64,
    /// Reports that are sent by themselves.
    pub schedule: Vec<ScheduleConfig>,
}

/// Why there is no catalogue although one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogueError {
    /// Its file cannot be read: what is wrong with it, and what to do.
    Read {
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },
    /// What is wrong in it.
    Parse(Vec<Problem>),
}

impl CatalogueError {
    /// All of it, each at its place.
    #[must_use]
    pub fn problems(self) -> Vec<Problem> {
        match self {
            Self::Read { what, fix } => {
                vec![Problem { place: "[report] plans".to_owned(), what, fix }]
            }
            Self::Parse(problems) => problems,
        }
    }
}

impl ReportConfig {
    /// The catalogue, read anew; `Ok(None)` where none is named.
    pub fn catalogue(&self) -> Result<Option<Catalogue>, CatalogueError> {
        let Some(path) = &self.plans else { return Ok(None) };
        let place = path.display().to_string();
        let refuse = |error: &io::Error| {
            let Problem { place, what, fix } = unreadable(place.clone(), error);
            CatalogueError::Read { what: format!("= {place:?} {what}"), fix }
        };
        let mut text = String::new();
        // No further than the limit, as it may be a device without an end.
        let file = std::fs::File::open(path).map_err(|error| refuse(&error))?;
        file.take(CATALOGUE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| refuse(&e))?;
        if text.len() as u64 > CATALOGUE_BYTES_MAX {
            let what = format!("= {place:?} is larger than 1 MiB");
            let fix = "list only the plans that you would buy".to_owned();
            return Err(CatalogueError::Read { what, fix });
        }
        Catalogue::parse(&place, &text).map(Some).map_err(CatalogueError::Parse)
    }

    /// A catalogue that is named without a folder lies beside the file of the config, wherever the collector
    /// was started.
    pub(super) fn stand_beside(&mut self, file: &Path) {
        if let (Some(plans), Some(folder)) = (&mut self.plans, file.parent()) {
            *plans = folder.join(&*plans);
        }
    }

    /// What a report takes for granted, the catalogue read anew.
    pub fn settings(&self) -> Result<Settings, CatalogueError> {
        let plans = self.catalogue()?;
        Ok(Settings { limits: self.limits(), slo: self.slo, plans, by: self.by.clone() })
    }

    fn limits(&self) -> Limits {
        Limits {
            cpu: self.limit_cpu,
            memory: self.limit_memory,
            swap: self.limit_swap,
            disk: self.limit_disk,
            io: self.limit_io,
            children: self.limit_children,
            connections: self.limit_connections,
            pressure: self.limit_pressure,
            steal: self.limit_steal,
        }
    }

    /// Its numbers: key, value, least and most.
    pub(super) fn numbers(&self) -> [(&'static str, f64, f64, f64); 10] {
        [
            ("slo", self.slo, 0.9, 0.99999),
            ("limit_cpu", self.limit_cpu, 0.01, 0.99),
            ("limit_memory", self.limit_memory, 0.01, 0.99),
            ("limit_swap", self.limit_swap, 0.01, 0.99),
            ("limit_disk", self.limit_disk, 0.01, 0.99),
            ("limit_io", self.limit_io, 0.01, 0.99),
            ("limit_children", self.limit_children, 0.01, 0.99),
            ("limit_connections", self.limit_connections, 0.01, 0.99),
            ("limit_pressure", self.limit_pressure, 0.001, 0.99),
            ("limit_steal", self.limit_steal, 0.001, 0.99),
        ]
    }
}

impl Default for ReportConfig {
    fn default() -> Self {
        let Settings { limits, slo, plans: _, by } = Settings::default();
        Self {
            slo,
            plans: None,
            by,
            limit_cpu: limits.cpu,
            limit_memory: limits.memory,
            limit_swap: limits.swap,
            limit_disk: limits.disk,
            limit_io: limits.io,
            limit_children: limits.children,
            limit_connections: limits.connections,
            limit_pressure: limits.pressure,
            limit_steal: limits.steal,
            schedule: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, lines};
    use super::*;

    fn load(text: &str, plans: Option<&str>) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let here = format!("{}/", dir.path().display());
        if let Some(plans) = plans {
            std::fs::write(dir.path().join("plans.toml"), plans).unwrap();
        }
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text.replace("HERE/", &here)).unwrap();
        Config::load(Some(&file), std::iter::empty())
            .map_err(|problems| lines(&problems).replace(&here, ""))
    }

    #[test]
    fn the_shipped_catalogue_is_sound() {
        let shipped = include_str!("../../../deploy/config/plans.toml");
        let catalogue = Catalogue::parse("plans.toml", shipped).unwrap();
        assert_eq!((catalogue.plans.len(), catalogue.currency.as_str()), (8, "EUR"));
    }

    #[test]
    fn defaults_are_those_of_reports_without_a_config() {
        assert_eq!(ReportConfig::default().settings().unwrap(), Settings::default());
    }

    #[test]
    fn numbers_and_labels_out_of_range_are_told_at_their_lines() {
        let told = load(
            "[report]\nslo = 1\nlimit_cpu = 80\nby = [\"a b\", \"x\", \"x\"]\nlimit_cup = 1\n",
            None,
        );
        let told = told.unwrap_err();
        for expected in [
            "c.toml:2: [report] slo = 1 is out of range: write 0.9 to 0.99999",
            "c.toml:3: [report] limit_cpu = 80 is out of range: write 0.01 to 0.99",
            "c.toml:4: [report] by holds \"a b\", no label name",
            "c.toml:4: [report] by holds \"x\" twice: remove one",
            "c.toml:5: limit_cup is not known: did you mean limit_cpu?",
        ] {
            assert!(told.lines().any(|line| line.starts_with(expected)), "{expected} in {told}");
        }
        assert_eq!(told.lines().count(), 5, "{told}");
    }

    #[test]
    fn a_catalogue_with_errors_is_told_with_its_own_lines() {
        let text = "[report]\nplans = \"HERE/plans.toml\"\n";
        let told = load(text, None).unwrap_err();
        let expected = "c.toml:2: [report] plans = \"plans.toml\" cannot be read (No such file";
        assert!(told.starts_with(expected) && told.ends_with("exists\n"), "{told}");
        let told = load(text, Some("currency = \"EUR\"\n[[plan]]\nname = \"S\"\n")).unwrap_err();
        assert!(told.starts_with("plans.toml:2: vcpu of plan \"S\" is missing"), "{told}");
        assert_eq!(told.lines().count(), 4, "{told}");
        let told = load(text, Some(&"#".repeat(2 << 20))).unwrap_err();
        assert!(told.contains("is larger than 1 MiB: list only"), "{told}");
        let told = load("[report]\nplans = \"HERE/\"\n", None).unwrap_err();
        assert!(told.contains("cannot be read") && told.contains("directory"), "{told}");
        let good = include_str!("../../../deploy/config/plans.toml");
        load("[report]\nplans = \"plans.toml\"\n", Some(good)).unwrap();
        let told = load("[report]\nplans = \"../x/plans.toml\"\n", Some(good)).unwrap_err();
        let expected =
            "c.toml:2: [report] plans = \"../x/plans.toml\" cannot be read (No such file";
        assert!(told.starts_with(expected), "{told}");
        let config = load(text, Some(good)).unwrap();
        assert!(config.report.catalogue().is_err(), "read anew for each report: it is gone by now");
    }
    #[test]
    fn plans_of_the_config_lie_beside_it_and_those_of_the_environment_where_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let good = include_str!("../../../deploy/config/plans.toml");
        std::fs::create_dir(dir.path().join("of")).unwrap();
        std::fs::write(dir.path().join("of/plans.toml"), good).unwrap();
        std::fs::write(&file, "[report]\nplans = \"of/plans.toml\"\n").unwrap();
        let plans = |variables: Vec<(String, String)>| {
            let loaded = Config::load(Some(&file), variables.into_iter());
            loaded.map(|config| config.report.plans.unwrap()).map_err(|problems| lines(&problems))
        };
        assert_eq!(plans(Vec::new()), Ok(dir.path().join("of/plans.toml")));
        let set = |value: &str| vec![("GATEWATCH_REPORT_PLANS".to_owned(), value.to_owned())];
        let told = plans(set("of/plans.toml")).unwrap_err();
        assert!(told.starts_with("environment GATEWATCH_REPORT_PLANS"), "{told}");
        let whole = dir.path().join("of/plans.toml");
        assert_eq!(plans(set(&whole.display().to_string())), Ok(whole));
    }
}
