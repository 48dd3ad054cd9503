//! The story all front servers share: sites that fail in one way each, asked a known number of times,
//! and an agent that is given nothing but the configuration directories.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use harness::{AgentSpec, Fault, Fleet, Root, Seen, Upstream, Volley, eventually};
use serde_json::Value;
use wire::signal::counter::GATEWAY_503;
use wire::v1::Signal;

use crate::farm::{LIMIT, difference};

/// One site, and what has to be known of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) fault: Fault,
    /// What the server in front answers.
    pub(crate) status: u16,
    /// `None`: no gateway error. Else every exemplar has one of these signals, or none if empty.
    pub(crate) signals: Option<&'static [Signal]>,
    /// What stands in the server's logs; empty when it says nothing.
    pub(crate) logged: &'static str,
}

/// A gateway error that these signals explain.
pub(crate) const fn fails(
    fault: Fault,
    status: u16,
    signals: &'static [Signal],
    logged: &'static str,
) -> Case {
    Case { fault, status, signals: Some(signals), logged }
}

/// An answer that is no gateway error, whatever its status.
pub(crate) const fn answers(fault: Fault, status: u16) -> Case {
    Case { fault, status, signals: None, logged: "" }
}

/// The faults of the cases, for the backends.
pub(crate) fn faults(cases: &[Case]) -> Vec<Fault> {
    cases.iter().map(|case| case.fault).collect()
}

/// A server in front that runs, and its logs.
pub(crate) struct Story<'s> {
    pub(crate) root: &'s Root,
    pub(crate) cases: &'s [Case],
    pub(crate) volley: Volley,
    /// Below the root, with `*` for the name of the site; together one line for each request.
    pub(crate) access_log: &'static str,
}

impl Story<'_> {
    /// Asks all sites before there is an agent, and again when it runs; the database must hold the
    /// second volley and nothing of the first one, which is history.
    pub(crate) fn tell(&self) -> Fleet {
        let plan = self.plan();
        let n_before = self.n_logged();
        self.assert_answers(&self.volley.fire(&plan));
        let n: u64 = plan.iter().map(|(_, n)| n).sum();
        eventually("the server has logged each request", LIMIT, || {
            let n_logged = self.n_logged() - n_before;
            if n_logged == n { Ok(()) } else { Err(format!("{n_logged} of {n} lines")) }
        });
        self.assert_logged();

        let agent = AgentSpec::new("web-1").root(self.root);
        let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
        let seen = self.volley.fire(&plan);
        self.assert_answers(&seen);
        self.assert_stored(&fleet, &seen);
        fleet
    }

    /// Each site a few times: few enough that every gateway error is kept whole.
    fn plan(&self) -> Vec<(String, u64)> {
        let n = |ix: usize, fault| if fault == Fault::Hangs { 2 } else { 2 + ix as u64 % 3 };
        let sites = self.cases.iter().enumerate();
        sites.map(|(ix, case)| (case.fault.site(), n(ix, case.fault))).collect()
    }

    fn assert_answers(&self, seen: &Seen) {
        let of_case =
            |(case, (site, n)): (&Case, (String, u64))| ((site, u32::from(case.status)), n);
        let truth: BTreeMap<_, _> = self.cases.iter().zip(self.plan()).map(of_case).collect();
        let diff = difference(&truth, &seen.by_site_and_status());
        assert!(diff.is_empty(), "the server in front answers otherwise:\n{diff}");
    }

    /// Lines of requests in the access logs.
    fn n_logged(&self) -> u64 {
        let mut paths: Vec<_> = self
            .cases
            .iter()
            .map(|case| self.access_log.replace('*', &case.fault.site()))
            .collect();
        paths.dedup();
        let text = paths.iter().filter_map(|path| fs::read_to_string(self.root.join(path)).ok());
        text.map(|text| text.matches("/page/").count() as u64).sum()
    }

    fn assert_logged(&self) {
        let text = logs_below(self.root);
        let missing: Vec<_> =
            self.cases.iter().filter(|case| !text.contains(case.logged)).collect();
        assert!(missing.is_empty(), "not in the logs: {missing:#?}\n{text}");
    }

    fn assert_stored(&self, fleet: &Fleet, seen: &Seen) {
        eventually("the database holds what the clients saw", LIMIT, || {
            let diff = difference(&seen.by_site_and_status(), &fleet.db().requests("web-1"));
            if diff.is_empty() { Ok(()) } else { Err(diff) }
        });
        // No line of a real server is beyond us, and no site a stranger.
        for (key, n) in fleet.db().loss("web-1") {
            assert_eq!(n, 0, "{key}: {:#}", fleet.agent("web-1").status().unwrap_or_default());
        }
        // Exemplars travel with their counts, so they are there now.
        let mut wrong = String::new();
        let (counts, signals) = (fleet.db().counts("web-1"), fleet.db().signals("web-1"));
        for (case, (site, n)) in self.cases.iter().zip(self.plan()) {
            let n_503 = counts.get(&(site.clone(), GATEWAY_503)).copied().unwrap_or(0);
            let want = if case.status == 503 && case.signals.is_some() { n } else { 0 };
            if n_503 != want {
                writeln!(wrong, "{site}: {n_503} of {want} 503 are gateway errors").expect("text");
            }
            let have: Vec<_> = signals.iter().filter(|((of, ..), _)| *of == site).collect();
            let n_kept: u64 = have.iter().map(|(_, n)| **n).sum();
            let is_told = |signal: Option<&str>| {
                let allowed = case.signals.unwrap_or_default();
                allowed.iter().any(|s| s.name() == signal) || allowed.is_empty() && signal.is_none()
            };
            let all_told = have.iter().all(|((_, status, signal), _)| {
                *status == u32::from(case.status) && is_told(*signal)
            });
            if n_kept != case.signals.map_or(0, |_| n) || !all_told {
                writeln!(wrong, "{site}: {n} gateway errors of {case:?}: {have:?}").expect("text");
            }
        }
        assert!(wrong.is_empty(), "{wrong}{}", fleet.agent("web-1").log_text());
    }
}

/// All that is written below `var/log`.
pub(crate) fn logs_below(root: &Root) -> String {
    let mut text = String::new();
    let mut left = vec![root.join("var/log")];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).expect("the root is readable").filter_map(Result::ok) {
            if entry.path().is_dir() {
                left.push(entry.path());
            } else {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    text
}

/// What the agent of a fleet discovers.
pub(crate) fn discovered(fleet: &Fleet) -> Value {
    let found = fleet.agent("web-1").run(&["discover", "--json"]).good().expect("it discovers");
    serde_json::from_str(&found).expect("discover prints one JSON object")
}

/// A site as `discover` must name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) site: String,
    /// Its access logs, below the root.
    pub(crate) access_logs: Vec<String>,
    /// Who answers: a local socket or port, or the name of a PHP-FPM pool.
    pub(crate) pool: Option<String>,
}

/// One `Known` for each backend's site; `*` in the log is the name of the site.
pub(crate) fn known(sites: &[harness::ProxySite], access_log: &str) -> Vec<Known> {
    let one = |site: &harness::ProxySite| Known {
        site: site.name.clone(),
        access_logs: vec![access_log.replace('*', &site.name)],
        pool: site.upstream.as_ref().map(Upstream::to_string),
    };
    sites.iter().map(one).collect()
}

/// The agent discovers exactly these sites, with their logs and who answers for them.
pub(crate) fn assert_discovers(fleet: &Fleet, root: &Root, truth: Vec<Known>) {
    assert_discovers_beside(fleet, root, truth, "");
}

/// The same where another server of the chain writes `inner_log`, which may be listed too.
pub(crate) fn assert_discovers_beside(
    fleet: &Fleet,
    root: &Root,
    mut truth: Vec<Known>,
    inner_log: &str,
) {
    let found = discovered(fleet);
    let sites = found["sites"].as_array().expect("a list");
    let mut have: Vec<Known> = sites.iter().map(|site| as_known(site, root)).collect();
    // What is left for hosts that no configuration names is a site too, and has no host name.
    have.retain(|site| site.site.contains('.'));
    for site in &mut have {
        site.access_logs.retain(|log| *log != inner_log.replace('*', &site.site));
    }
    have.sort_by(|a, b| a.site.cmp(&b.site));
    truth.sort_by(|a, b| a.site.cmp(&b.site));
    assert_eq!(have, truth, "{found:#}");
}

fn as_known(site: &Value, root: &Root) -> Known {
    let logs = site["access_logs"].as_array().expect("a list");
    let below = |log: &Value| {
        let path = log["path"].as_str().expect("a path");
        let root = format!("{}/", root.path().display());
        path.strip_prefix(&root).unwrap_or(path).to_owned()
    };
    Known {
        site: site["site"].as_str().expect("a name").to_owned(),
        access_logs: logs.iter().map(below).collect(),
        pool: site["pool"].as_str().map(str::to_owned),
    }
}
