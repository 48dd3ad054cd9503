//! What a report takes for granted: limits, the objective, the plans that can be had. Pure data.

use super::plans::Catalogue;

/// `[report]` of the config, and what the asker put over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Above what a minute counts as too full.
    pub limits: Limits,
    /// Share of the minutes in which a site is to be outside of any incident, 0..1.
    pub slo: f64,
    /// Plans that can be had; `None`: no advice about plans.
    pub plans: Option<Catalogue>,
    /// Labels by whose values servers are put together; empty: every label that at least two share.
    pub by: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limits: Limits::default(), slo: 0.999, plans: None, by: Vec::new() }
    }
}

/// Shares (0..=1) above which a minute counts as above the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Busy processors.
    pub cpu: f64,
    /// Memory in use.
    pub memory: f64,
    /// Swap in use.
    pub swap: f64,
    /// Disk space and inodes in use.
    pub disk: f64,
    /// Time in which a disk is busy.
    pub io: f64,
    /// Busy children of a PHP-FPM pool.
    pub children: f64,
    /// Connections of a database or proxy, of those it takes.
    pub connections: f64,
    /// Time in which something waits (PSI).
    pub pressure: f64,
    /// Stolen time of the processors.
    pub steal: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: 0.8,
            memory: 0.9,
            swap: 0.5,
            disk: 0.9,
            io: 0.9,
            children: 0.9,
            connections: 0.9,
            pressure: 0.1,
            steal: 0.05,
        }
    }
}
