//! The reports on outages and noise made by hand.

use wire::UnixMillis;

use super::{HOURS, at, column, text};
use crate::report::document::{
    Block, Chart, Finding, Kind, Level, Plot, Report, Section, Stretch, Table, Unit, Value,
};

/// An outage report.
#[expect(clippy::too_many_lines, reason = "figures of a page, written out")]
pub(crate) fn outage() -> Report {
    let stretch =
        |from: i64, hours: i64, level| Stretch { from: at(from), to: at(from + hours), level };
    let columns = vec![
        column("site", "Site", Unit::Text, true, "The site's name."),
        column("owner", "Owner", Unit::Text, true, "Whose files the site serves, by discovery."),
        column(
            "availability",
            "Availability",
            Unit::Share,
            false,
            "1 less the minutes lost over the minutes in which the site was there.",
        ),
        column(
            "lost_minutes",
            "Minutes lost",
            Unit::Minutes,
            false,
            "Minutes in which the site was inside of an incident, each once.",
        ),
        column(
            "budget_used",
            "Budget used",
            Unit::Share,
            false,
            "Minutes lost over the minutes that the objective allows.",
        ),
        column(
            "crawler_502",
            "502 to crawlers",
            Unit::Count,
            false,
            "502s that search engines' crawlers saw, by their own word.",
        ),
        column(
            "longest_seconds",
            "Longest",
            Unit::Seconds,
            false,
            "The longest incident of the site.",
        ),
        column("first_at", "First", Unit::Time, false, "When its first incident began."),
    ];
    let sites = [
        ("shop.example", "acme", 412, 1331),
        ("blog.example", "acme", 37, 12),
        ("wiki.example", "initech", 9, 0),
        ("kb.example", "initech", 0, 0),
    ];
    let rows = sites.map(|(site, owner, lost, crawlers)| {
        let availability = 1.0 - lost as f64 / (HOURS as f64 * 60.0);
        let why = "no incident";
        vec![
            text(site),
            text(owner),
            Value::Number(availability),
            Value::Count(lost),
            Value::Number((1.0 - availability) / 0.001),
            Value::Count(crawlers),
            if lost > 0 { Value::Number(lost as f64 * 22.5) } else { Value::Unknown(why) },
            if lost > 0 {
                Value::Time(UnixMillis(at(100).0 + 67_000))
            } else {
                Value::Unknown(why)
            },
        ]
    });
    Report {
        kind: Kind::Outage,
        title: "Outages of acme in November 2026".into(),
        scope: "3 servers with customer=acme".into(),
        from: at(0),
        to: at(HOURS),
        made_at: at(HOURS + 1),
        caveats: Vec::new(),
        findings: vec![
            Finding {
                level: Level::Critical,
                text: "shop.example lost 412 minutes: 8 times the error budget of 99.9 %.".into(),
            },
            Finding { level: Level::Good, text: "kb.example lost nothing.".into() },
        ],
        sections: vec![Section {
            key: "sites",
            title: "Sites".into(),
            text: vec![
                "Minutes lost are minutes in which a site was inside of an incident.".into(),
            ],
            blocks: vec![
                Block::Chart(Chart {
                    key: "timeline".into(),
                    title: "When sites were out".into(),
                    words: "shop.example was out on 5, 12 and 24 November.".into(),
                    unit: Unit::Time,
                    plot: Plot::Spans {
                        from: at(0),
                        to: at(HOURS),
                        rows: vec![
                            (
                                "shop.example".into(),
                                vec![
                                    stretch(100, 3, Level::Critical),
                                    stretch(270, 9, Level::Warning),
                                    stretch(560, 1, Level::Critical),
                                ],
                            ),
                            ("blog.example".into(), vec![stretch(270, 9, Level::Note)]),
                            ("wiki.example".into(), vec![stretch(300, 30, Level::Note)]),
                            ("kb.example".into(), Vec::new()),
                        ],
                    },
                }),
                Block::Table(Table {
                    key: "sites",
                    title: "Availability of sites".into(),
                    columns,
                    rows: rows.to_vec(),
                    empty: "No site was seen.",
                }),
            ],
        }],
    }
}

/// A noise report.
pub(crate) fn noise_makers() -> Report {
    let bars = [
        ("shop.example", 13_310.0),
        ("blog.example", 2212.0),
        ("wiki.example", 190.0),
        ("kb.example", 4.0),
    ];
    Report {
        kind: Kind::Noise,
        title: "Who makes the noise".into(),
        scope: "all 12 servers".into(),
        from: at(0),
        to: at(HOURS),
        made_at: at(HOURS + 1),
        caveats: vec![
            "Plugins are known for the failures whose log line was kept: 3,112 of 15,716.".into(),
        ],
        findings: vec![Finding {
            level: Level::Warning,
            text: "One plugin, wp-slow-search, stands behind 61 % of the gateway errors.".into(),
        }],
        sections: vec![Section {
            key: "sites",
            title: "Sites".into(),
            text: Vec::new(),
            blocks: vec![
                Block::Chart(Chart {
                    key: "errors".into(),
                    title: "Gateway errors by site".into(),
                    words: "shop.example has most of them.".into(),
                    unit: Unit::Count,
                    plot: Plot::Bars(bars.map(|(name, n)| (name.to_owned(), n)).to_vec()),
                }),
                Block::Table(Table {
                    key: "sites",
                    title: "Gateway errors by site".into(),
                    columns: vec![
                        column("site", "Site", Unit::Text, true, "The site's name."),
                        column(
                            "errors",
                            "Errors",
                            Unit::Count,
                            false,
                            "Requests answered with 502, 503 of a gateway, or 504.",
                        ),
                        column(
                            "share",
                            "Share",
                            Unit::Share,
                            false,
                            "Of all gateway errors of the report.",
                        ),
                    ],
                    rows: bars
                        .map(|(name, n)| {
                            vec![text(name), Value::Count(n as u64), Value::Number(n / 15_716.0)]
                        })
                        .to_vec(),
                    empty: "No site failed.",
                }),
            ],
        }],
    }
}
