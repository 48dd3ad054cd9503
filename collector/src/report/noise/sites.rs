//! Sites by their gateway errors, and the plugins that errors and slow requests name. Pure.

use std::collections::BTreeSet;

use super::Input;
use crate::model::SiteId;
use crate::report::column::{about, figure};
use crate::report::document::{Block, Chart, Column, Plot, Section, Table, Unit, Value};
use crate::report::outage::Site;
use crate::report::words;

/// Rows of a table.
const ROWS_MAX: usize = 50;
const BARS_MAX: usize = 12;
/// Longest name of a plugin.
const NAME_BYTES_MAX: usize = 64;
/// Folders whose parts have a name.
const FOLDERS: [(&str, &str); 3] = [
    ("wp-content/plugins/", "plugin"),
    ("wp-content/mu-plugins/", "must-use plugin"),
    ("wp-content/themes/", "theme"),
];

/// A plugin or a theme.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// `plugin`, `must-use plugin` or `theme`.
    pub kind: &'static str,
    /// Name of its folder.
    pub name: String,
}

impl Part {
    /// Those that a path, or a line of a log, names; each once.
    #[must_use]
    pub fn all_in(text: &str) -> BTreeSet<Self> {
        let mut found = BTreeSet::new();
        for (folder, kind) in FOLDERS {
            for (at, _) in text.match_indices(folder) {
                let rest = &text[at + folder.len()..];
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
                let name = &rest[..end.unwrap_or(rest.len())];
                // A file of the folder itself is no part of it.
                let is_name = name.len() <= NAME_BYTES_MAX
                    && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && name != "index.php";
                if is_name {
                    found.insert(Self { kind, name: name.to_owned() });
                }
            }
        }
        found
    }
}

/// How often a part was named.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named {
    /// Gateway errors that name it in their path or their log line: of each site and hour all of them times the
    /// share of those kept whole.
    pub n_errors: f64,
    /// Lines of evidence that name it: slow requests, fatal errors.
    pub n_lines: u64,
    /// Sites whose errors name it.
    pub sites: BTreeSet<SiteId>,
}

/// Sites with gateway errors, the most first.
pub(super) fn noisiest(input: &Input) -> Vec<&Site> {
    let mut sites: Vec<&Site> = input.sites.values().filter(|site| site.n_errors > 0).collect();
    sites.sort_by(|a, b| {
        (b.n_errors, b.n_bad_minutes, &a.name).cmp(&(a.n_errors, a.n_bad_minutes, &b.name))
    });
    sites
}

/// Gateway errors of all sites.
pub(super) fn n_errors(input: &Input) -> u64 {
    input.sites.values().map(|site| site.n_errors).fold(0, u64::saturating_add)
}

const OF_SITES: [Column; 9] = [
    about("site", "site", "primary name of the virtual host; `other` is what no known site took"),
    about("server", "server", "the server it is on"),
    figure("owner", "customer", Unit::Text, "Unix user that the agent found to own the site"),
    figure(
        "gateway_errors",
        "gateway errors",
        Unit::Count,
        "answers with 502 or 504, or with a 503 that a gateway made; in whole hours",
    ),
    figure(
        "errors_ratio",
        "share",
        Unit::Share,
        "of the gateway errors of all sites of the report",
    ),
    figure(
        "so_far_ratio",
        "so far",
        Unit::Share,
        "share of this site and of those above it together",
    ),
    figure("failed_ratio", "of its requests", Unit::Share, "gateway errors / requests of the site"),
    figure(
        "bad_minutes",
        "minutes with errors",
        Unit::Minutes,
        "clock minutes with at least one answer of 502, 503 or 504; in whole hours",
    ),
    figure(
        "incidents",
        "incidents",
        Unit::Count,
        "incidents that the site was inside of in the report's time; what was merged into another counts with it, as in the outage report",
    ),
];

/// Which sites make most of the errors.
pub(super) fn section(input: &Input) -> Section {
    let (sites, n_all) = (noisiest(input), n_errors(input));
    let mut so_far = 0;
    let mut rows = Vec::new();
    for site in sites.iter().take(ROWS_MAX) {
        so_far += site.n_errors;
        rows.push(row(input, site, so_far, n_all));
    }
    let mut text = Vec::new();
    if sites.len() > rows.len() {
        let left = words::many((sites.len() - rows.len()) as u64, "other site", "other sites");
        let rest = words::count(n_all - so_far);
        text.push(format!("{left} made the other {rest} gateway errors and are not listed."));
    }
    let bars: Vec<(String, f64)> = sites
        .iter()
        .take(BARS_MAX)
        .map(|site| (named(input, site), site.n_errors as f64))
        .collect();
    let table = Table {
        key: "sites",
        title: "Gateway errors by site".to_owned(),
        columns: OF_SITES.to_vec(),
        rows,
        empty: "No site answered with a gateway error.",
    };
    let mut blocks = vec![Block::Table(table)];
    if bars.len() > 1 {
        let chart = Chart {
            key: "errors_by_site".to_owned(),
            title: "Gateway errors by site".to_owned(),
            words: format!("Bars, one for each of the noisiest sites. Most: {}.", bars[0].0),
            unit: Unit::Count,
            plot: Plot::Bars(bars),
        };
        blocks.insert(0, Block::Chart(chart));
    }
    Section { key: "sites", title: "Sites".to_owned(), text, blocks }
}

fn row(input: &Input, site: &Site, so_far: u64, n_all: u64) -> Vec<Value> {
    let server = input.servers.get(&site.server).map_or("", |server| server.name.as_str());
    let known = input.sites.iter().find(|(_, known)| std::ptr::eq(*known, site));
    let n_incidents = known.and_then(|(id, _)| input.n_incidents.get(id)).copied().unwrap_or(0);
    let share = |n: u64, of: u64| (of > 0).then(|| n as f64 / of as f64);
    vec![
        Value::Text(site.name.clone()),
        Value::Text(server.to_owned()),
        site.owner.clone().map_or(Value::Unknown("discovery found none"), Value::Text),
        Value::Count(site.n_errors),
        Value::or(share(site.n_errors, n_all), "there are no errors"),
        Value::or(share(so_far, n_all), "there are no errors"),
        Value::or(share(site.n_errors, site.n_requests), "its requests are not known"),
        Value::Count(site.n_bad_minutes),
        Value::Count(n_incidents),
    ]
}

/// `a.example on web-1`.
pub(super) fn named(input: &Input, site: &Site) -> String {
    match input.servers.get(&site.server) {
        Some(server) => format!("{} on {}", site.name, server.name),
        None => site.name.clone(),
    }
}

/// Plugins by how often errors and evidence name them, the most first.
pub(super) fn ranked(input: &Input) -> Vec<(&Part, &Named)> {
    let mut parts: Vec<(&Part, &Named)> = input.parts.iter().collect();
    let n = |named: &Named| named.n_errors + named.n_lines as f64;
    parts.sort_by(|a, b| n(b.1).total_cmp(&n(a.1)).then_with(|| a.0.cmp(b.0)));
    parts
}

/// Which plugins and themes errors name.
pub(super) fn parts(input: &Input) -> Section {
    const COLUMNS: [Column; 7] = [
        about("part", "plugin or theme", "name of its folder below `wp-content`"),
        about("kind", "kind", "`plugin`, `must-use plugin` or `theme`"),
        figure(
            "errors",
            "errors naming it",
            Unit::Count,
            "gateway errors whose path or error-log line names it: of each site and hour its gateway errors x the share of those kept whole that name it, about; kept whole are five of a site and second, and of an hour the first 20 of a site and signal",
        ),
        figure(
            "errors_ratio",
            "share",
            Unit::Share,
            "of all gateway errors of the sites of the report, since they are kept whole",
        ),
        figure(
            "lines",
            "evidence naming it",
            Unit::Count,
            "lines of error, slow and system logs, kept as evidence, that name it: slow requests and fatal errors",
        ),
        figure("sites", "sites", Unit::Count, "sites whose gateway errors name it"),
        figure(
            "worst_site",
            "for example",
            Unit::Text,
            "the one of these sites with most gateway errors",
        ),
    ];
    let row = |(part, named): &(&Part, &Named)| {
        let sites = named.sites.iter().filter_map(|id| input.sites.get(id));
        let worst = sites.max_by_key(|site| site.n_errors);
        let n_all = input.n_errors_told as f64;
        let share = (n_all > 0.0).then(|| named.n_errors / n_all);
        vec![
            Value::Text(part.name.clone()),
            Value::Text(part.kind.to_owned()),
            Value::Count(named.n_errors.round() as u64),
            Value::or(share, "there are no errors"),
            Value::Count(named.n_lines),
            Value::Count(named.sites.len() as u64),
            worst.map_or(Value::Unknown("its lines name no site"), |site| {
                Value::Text(self::named(input, site))
            }),
        ]
    };
    let table = Table {
        key: "parts",
        title: "Plugins and themes named by errors".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: ranked(input).iter().take(ROWS_MAX).map(row).collect(),
        empty: "No error or slow request names a plugin or theme.",
    };
    let text = vec![
        "What a log line names ran when the request failed; that is a trace, not yet a proof."
            .to_owned(),
    ];
    Section { key: "parts", title: "Plugins".to_owned(), text, blocks: vec![Block::Table(table)] }
}
