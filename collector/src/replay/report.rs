//! What a replay says of a stream beside its incidents: what was skipped, what was odd.
//!
//! Everything is counted; names and single lines are told up to a bound, with control characters
//! made visible, because the stream may come from anybody.

use std::collections::BTreeMap;

/// Distinct names kept of one kind.
const NAMES_MAX: usize = 16;
/// Broken lines told one by one.
pub(crate) const TOLD_MAX: u64 = 20;
/// Characters of a foreign text that are shown.
const SHOWN_CHARS_MAX: usize = 160;

/// What was skipped or taken with a grain of salt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Lines that are no record.
    pub n_broken: u64,
    /// Records whose type this release does not know, by type.
    pub types: Names,
    /// Fields this release does not know, by name.
    pub fields: Names,
    /// Metrics of samples that the catalog does not have.
    pub n_values_unknown: u64,
    /// Labels beyond what one server may have.
    pub n_labels_dropped: u64,
    /// Servers whose records came without a `server` record before them.
    pub servers_unnamed: Names,
    /// Sites whose records came without a `site` record before them.
    pub n_sites_unnamed: u64,
    /// Records of servers beyond the most that are taken.
    pub n_servers_refused: u64,
    /// Records of sites beyond the most of one server.
    pub n_sites_refused: u64,
    /// Records of sites beyond the most of all servers.
    pub n_sites_over: u64,
    /// Records from before the year 2000.
    pub n_ancient: u64,
    /// Records far ahead of the stream, which no other record confirmed.
    pub n_ahead: u64,
    /// Records that arrived before the one in front of them.
    pub n_out_of_order: u64,
    /// Records more than five minutes ahead of the clock, or from before 1970.
    pub n_misdated: u64,
}

/// Names and how often each came; beyond a bound only how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// How often, in all.
    pub n: u64,
    by_name: BTreeMap<String, u64>,
}

impl Names {
    pub(crate) fn add(&mut self, name: &str, n: u64) {
        self.n += n;
        if let Some(known) = self.by_name.get_mut(name) {
            *known += n;
        } else if self.by_name.len() < NAMES_MAX {
            self.by_name.insert(name.to_owned(), n);
        }
    }

    fn list(&self) -> String {
        let named: Vec<String> =
            self.by_name.iter().map(|(name, n)| format!("{} {n}", shown(name))).collect();
        let rest = self.n - self.by_name.values().sum::<u64>();
        let more = if rest > 0 { format!(", others {rest}") } else { String::new() };
        format!("{}{more}", named.join(", "))
    }
}

impl Skipped {
    pub(crate) fn unnamed_server(&mut self, name: &str) {
        self.servers_unnamed.add(name, 1);
    }

    /// One line per thing to say; nothing when all was as it should be.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |n: u64, text: &dyn Fn() -> String| {
            if n > 0 {
                lines.push(text());
            }
        };
        say(self.n_broken, &|| format!("skipped: {} broken lines", self.n_broken));
        say(self.types.n, &|| {
            format!("skipped: {} records of unknown types ({})", self.types.n, self.types.list())
        });
        say(self.fields.n, &|| {
            format!("skipped: {} unknown fields ({})", self.fields.n, self.fields.list())
        });
        say(self.n_values_unknown, &|| {
            format!("skipped: {} values of metrics not in the catalog", self.n_values_unknown)
        });
        say(self.n_labels_dropped, &|| {
            format!("skipped: {} labels beyond 64 of a server", self.n_labels_dropped)
        });
        say(self.n_servers_refused, &|| {
            format!("skipped: {} records of servers beyond 100,000", self.n_servers_refused)
        });
        say(self.n_sites_refused, &|| {
            format!("skipped: {} records of sites beyond 20,000 of a server", self.n_sites_refused)
        });
        say(self.n_sites_over, &|| {
            format!("skipped: {} records of sites beyond 4,000,000 in all", self.n_sites_over)
        });
        say(self.n_ancient, &|| {
            format!("skipped: {} records from before the year 2000", self.n_ancient)
        });
        say(self.n_ahead, &|| {
            format!(
                "taken at the time of the record before them: {} records more than 10 minutes ahead of the stream, to where no other server followed",
                self.n_ahead
            )
        });
        say(self.n_misdated, &|| {
            format!(
                "skipped: {} records dated more than 5 minutes after their arrival",
                self.n_misdated
            )
        });
        say(self.servers_unnamed.n, &|| {
            format!(
                "taken without labels: {} servers that no `server` record names before their data ({})",
                self.servers_unnamed.n,
                self.servers_unnamed.list()
            )
        });
        say(self.n_sites_unnamed, &|| {
            format!(
                "taken without a pool: {} sites that no `site` record names before their data",
                self.n_sites_unnamed
            )
        });
        say(self.n_out_of_order, &|| {
            format!(
                "taken at the time of the record before them: {} records that arrived earlier",
                self.n_out_of_order
            )
        });
        lines
    }
}

/// A foreign text for a terminal: short, and without anything but visible characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(SHOWN_CHARS_MAX) {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            // Also what turns the direction of writing.
            c => out.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}
