//! What localisation weighed and why it took or left it: the answer to "why did you page me?".
//!
//! Off by default: nothing is kept, and what would be kept is not even made.

/// One scope that was weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// When, on the collector's clock, ms.
    pub at: i64,
    /// Its key, as in the key of its incident: `server:web-07`.
    pub scope: String,
    /// Log odds, nats.
    pub score: f64,
    /// What it needed, nats.
    pub needed: f64,
    /// Sites, or servers for a group, that fail in it.
    pub n_failing: usize,
    /// Those that answer well.
    pub n_well: usize,
    /// Why it was left; `None` when it was taken.
    pub rejected: Option<String>,
}

/// A list of what was weighed, while somebody wants it.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    is_on: bool,
    weighed: Vec<Weighed>,
}

/// Scopes kept between two calls of `take`.
const WEIGHED_MAX: usize = 10_000;

impl Trail {
    pub(crate) fn start(&mut self) {
        self.is_on = true;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Notes a scope, made only while somebody wants it.
    pub(crate) fn note(&mut self, weighed: impl FnOnce() -> Weighed) {
        if self.is_on && self.weighed.len() < WEIGHED_MAX {
            self.weighed.push(weighed());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Weighed> {
        std::mem::take(&mut self.weighed)
    }
}
