//! Reports made by hand for the tests of the renderers, with everything that a report may hold.

#[path = "sample/trouble.rs"]
mod trouble;

use wire::UnixMillis;

use crate::report::document::{
    Block, Chart, Column, Finding, Kind, Level, Line, Plot, Report, Section, Stroke, Table, Unit,
    Value,
};

pub(crate) use trouble::{noise_makers, outage};

const HOUR_MS: i64 = 3_600_000;
/// 2026-11-01T00:00:00Z.
const FROM: i64 = 1_793_491_200_000;
/// Hours of the reports.
const HOURS: i64 = 35 * 24;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

fn at(hour: i64) -> UnixMillis {
    UnixMillis(FROM + hour * HOUR_MS)
}

fn column(
    key: &'static str,
    title: &'static str,
    unit: Unit,
    is_key: bool,
    definition: &'static str,
) -> Column {
    Column { key, title, unit, is_key, definition }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// A number in 0..1 that looks random and is the same each time.
fn noise(seed: i64) -> f64 {
    let mut x = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    (x % 10_000) as f64 / 10_000.0
}

/// Busy by day, quiet by night and on weekends.
fn rhythm(server: i64, hour: i64) -> f64 {
    let day = (hour % 24) as f64 / 24.0 * std::f64::consts::TAU;
    let weekend = if hour / 24 % 7 >= 5 { 0.6 } else { 1.0 };
    let base = 0.22 + 0.07 * (server % 5) as f64;
    let wave = 0.5 - 0.5 * (day - 0.8).cos();
    (base + 0.4 * wave * weekend + 0.12 * noise(server * 10_000 + hour)).min(1.0)
}

fn servers(n: i64) -> Vec<(String, i64)> {
    (1..=n).map(|n| (format!("web-{n:02}"), n)).collect()
}

/// A capacity report of so many servers.
pub(crate) fn capacity(n_servers: i64) -> Report {
    Report {
        kind: Kind::Capacity,
        title: format!("Capacity of {n_servers} servers in November 2026"),
        scope: format!("all {n_servers} servers"),
        from: at(0),
        to: at(HOURS),
        made_at: at(HOURS + 6),
        caveats: vec![
            "3 hours of web-02 are missing: 2026-11-09 02:00 to 05:00 UTC.".into(),
            "Minutes before 2026-11-06 00:00 UTC are kept as hourly sums only: error minutes of \
             those days are tied to causes by the hour."
                .into(),
        ],
        findings: vec![
            Finding {
                level: Level::Critical,
                text:
                    "web-04: the disk is 95 % full in about 9 days (7 to 13). Free space or move \
                       to VPS L before 2026-12-14."
                        .into(),
            },
            Finding {
                level: Level::Warning,
                text:
                    "web-07: 214 of 231 minutes with 502 came while all children of pool www were \
                       busy and memory was free: raise pm.max_children from 5 to 14, it fits."
                        .into(),
            },
            Finding {
                level: Level::Note,
                text: "web-03 and web-09 need half of what they pay for: VPS S saves 24.00 EUR a \
                       month."
                    .into(),
            },
            Finding { level: Level::Good, text: "The other 8 servers fit their plans.".into() },
        ],
        sections: vec![plans(), usage(n_servers), forecast(), nothing()],
    }
}

#[expect(clippy::too_many_lines, reason = "figures of a page, written out")]
fn plans() -> Section {
    let columns = vec![
        column("server", "Server", Unit::Text, true, "The server's name."),
        column(
            "advice",
            "Advice",
            Unit::Text,
            false,
            "What to do about its plan, and how much it matters.",
        ),
        column("plan", "Plan now", Unit::Text, false, "The label `plan` of the server."),
        column(
            "to_plan",
            "To plan",
            Unit::Text,
            false,
            "The cheapest plan of the catalogue that fits with headroom.",
        ),
        column(
            "difference_month",
            "Difference",
            Unit::Money("EUR".into()),
            false,
            "Price of the plan advised less the price of the plan now, a month.",
        ),
        column(
            "headroom_memory_share",
            "Memory free after",
            Unit::Share,
            false,
            "1 less next week's p95 of memory used over the memory of the plan advised.",
        ),
        column(
            "confidence",
            "How sure",
            Unit::Text,
            false,
            "High: 28 days and 95 % of the hours are known and every limit is passed by a tenth.",
        ),
        column("reasons", "Reasons", Unit::Text, false, "Why, with the figures that decided."),
    ];
    let row = |server, level, advice: &str, plan, to: Option<&str>, money, sure, why| {
        vec![
            text(server),
            Value::Level(level, advice.into()),
            text(plan),
            to.map_or(Value::Unknown("no other plan is advised"), text),
            Value::or(money, "no other plan is advised"),
            Value::or(money.map(|m: f64| 0.31 + m / 100.0), "no other plan is advised"),
            text(sure),
            text(why),
        ]
    };
    Section {
        key: "plans",
        title: "Plans".into(),
        text: vec![
            "Each server against 6 plans of the catalogue. Prices are a month, without tax.".into(),
        ],
        blocks: vec![Block::Table(Table {
            key: "plan_advice",
            title: "Which plan fits".into(),
            columns,
            rows: vec![
                row(
                    "web-04",
                    Level::Critical,
                    "upgrade",
                    "VPS M",
                    Some("VPS L"),
                    Some(12.0),
                    "high",
                    "The disk grows 1.9 GiB a day and is 95 % full in 9 days (7 to 13). Memory and processors fit either plan.",
                ),
                row(
                    "web-07",
                    Level::Warning,
                    "stay",
                    "VPS M",
                    None,
                    None,
                    "high",
                    "Its errors come from pm.max_children, not from its size: 9.1 GiB of memory were free in every minute with errors.",
                ),
                row(
                    "web-11",
                    Level::Warning,
                    "move host",
                    "VPS M",
                    None,
                    None,
                    "medium",
                    "17 % of the processor time was stolen in 31 % of the minutes. No plan helps: ask the provider for another host.",
                ),
                row(
                    "web-03",
                    Level::Note,
                    "downgrade",
                    "VPS L",
                    Some("VPS S"),
                    Some(-12.0),
                    "high",
                    "p99.5 of 35 days is 1.1 of 8 vCPU and 2.4 of 32 GiB.",
                ),
                row(
                    "web-12",
                    Level::Note,
                    "no advice",
                    "VPS S",
                    None,
                    None,
                    "low",
                    "Only 3.5 days are known: advice needs 14.",
                ),
            ],
            empty: "No server has a plan that the catalogue knows.",
        })],
    }
}

#[expect(clippy::too_many_lines, reason = "figures of a page, written out")]
fn usage(n_servers: i64) -> Section {
    let mut columns = vec![column("server", "Server", Unit::Text, true, "The server's name.")];
    for (key, title, unit, definition) in [
        (
            "cpu_trend",
            "CPU, 35 days",
            Unit::Spark,
            "Daily p95 of the share of processor time that was busy.",
        ),
        (
            "cpu_p50",
            "CPU p50",
            Unit::Share,
            "Half of the one-minute means of busy processor time are below. Within 1 %.",
        ),
        ("cpu_p95", "CPU p95", Unit::Share, "95 of 100 one-minute means are below. Within 1 %."),
        ("cpu_p99", "CPU p99", Unit::Share, "99 of 100 one-minute means are below. Within 1 %."),
        ("cpu_max", "CPU max", Unit::Share, "The largest sample."),
        (
            "cpu_over",
            "CPU over 80 %",
            Unit::Share,
            "Share of the minutes whose mean is above the limit.",
        ),
        (
            "memory_p95_bytes",
            "Memory p95",
            Unit::Bytes,
            "95 of 100 one-minute means of memory in use are below.",
        ),
        (
            "network_p95",
            "Network p95",
            Unit::BytesPerSecond,
            "95 of 100 one-minute means of bytes received and sent a second are below.",
        ),
        (
            "requests_p95",
            "Requests p95",
            Unit::PerSecond,
            "95 of 100 hours had fewer requests a second.",
        ),
        (
            "error_minutes",
            "Error minutes",
            Unit::Minutes,
            "Minutes in which a site answered with a gateway error.",
        ),
        (
            "days_to_full",
            "Days until full",
            Unit::Days,
            "Days until the disk is 95 % full, in eight of ten cases between the two in brackets.",
        ),
        ("seen_at", "Last sample", Unit::Time, "When the last sample was taken."),
    ] {
        columns.push(column(key, title, unit, false, definition));
    }
    let rows = servers(n_servers)
        .into_iter()
        .map(|(name, n)| {
            let load = 0.22 + 0.07 * (n % 5) as f64;
            let daily = |day: i64| (n != 12 || day > 30).then(|| rhythm(n, day * 24 + 14));
            vec![
                text(&name),
                Value::Spark((0..35).map(daily).collect()),
                Value::Number(load),
                Value::Number(load + 0.35),
                Value::Number(load + 0.41 + 0.01 * noise(n)),
                Value::Number((load + 0.5).min(1.0)),
                if n % 5 == 0 { Value::Number(0.0) } else { Value::Number(0.037 * noise(n + 9)) },
                Value::Number((2.0 + 1.7 * (n % 7) as f64) * GIB),
                Value::Number(1e6 * (1.0 + 30.0 * noise(n + 77))),
                Value::Number(130.0 * noise(n + 5)),
                Value::Count(if n == 7 { 231 } else { (n % 4) as u64 }),
                match n % 6 {
                    4 => Value::Interval { mid: 9.2, low: 7.1, high: 13.4 },
                    1 => Value::Unknown("not in 180 days"),
                    _ => Value::Interval { mid: 60.0 + n as f64, low: 41.0, high: 118.5 },
                },
                Value::Time(UnixMillis(at(HOURS).0 - 10_000)),
            ]
        })
        .collect();
    let lines = servers(3)
        .into_iter()
        .map(|(name, n)| Line {
            name,
            stroke: Stroke::Solid,
            points: (0..HOURS)
                .map(|h| (at(h), (n != 2 || !(200..290).contains(&h)).then(|| rhythm(n, h))))
                .collect(),
        })
        .collect();
    Section {
        key: "usage",
        title: "How full the servers are".into(),
        text: Vec::new(),
        blocks: vec![
            Block::Chart(Chart {
                key: "cpu_top".into(),
                title: "CPU of the busiest servers".into(),
                words: "Hourly means of three servers; all stay below the limit of 80 % but for \
                        some evenings of web-03."
                    .into(),
                unit: Unit::Share,
                plot: Plot::Lines {
                    from: at(0),
                    to: at(HOURS),
                    lines,
                    band: Vec::new(),
                    limit: Some((0.8, "limit 80 %".into())),
                },
            }),
            Block::Table(Table {
                key: "servers",
                title: "Servers".into(),
                columns,
                rows,
                empty: "No server sent samples.",
            }),
        ],
    }
}

fn forecast() -> Section {
    let past = Line {
        name: "used on /".into(),
        stroke: Stroke::Solid,
        points: (0..HOURS)
            .step_by(6)
            .map(|h| (at(h), Some((61.0 + 0.08 * h as f64 + 2.0 * noise(h)) * GIB)))
            .collect(),
    };
    let ahead = Line {
        name: "expected".into(),
        stroke: Stroke::Dashed,
        points: (HOURS..HOURS + 336)
            .step_by(12)
            .map(|h| (at(h), Some((62.0 + 0.08 * h as f64) * GIB)))
            .collect(),
    };
    let band = (HOURS..HOURS + 336).step_by(12).map(|h| {
        let wide = (h - HOURS) as f64 * 0.03;
        (at(h), (61.0 + 0.08 * h as f64 - wide) * GIB, (63.0 + 0.08 * h as f64 + wide) * GIB)
    });
    Section {
        key: "forecast",
        title: "What comes".into(),
        text: vec![
            "The forecast is the better of two methods on the last three weeks of each series."
                .into(),
        ],
        blocks: vec![
            Block::Chart(Chart {
                key: "disk_web_04".into(),
                title: "Disk of web-04".into(),
                words:
                    "Space used on / grows by 1.9 GiB a day; 95 % of the disk are reached between \
                        12 and 18 December."
                        .into(),
                unit: Unit::Bytes,
                plot: Plot::Lines {
                    from: at(0),
                    to: at(HOURS + 336),
                    lines: vec![past, ahead],
                    band: band.collect(),
                    limit: Some((152.0 * GIB, "95 % of the disk".into())),
                },
            }),
            Block::Chart(Chart {
                key: "days_to_full".into(),
                title: "Days until the disk is full".into(),
                words: "web-04 is first, with 9 days.".into(),
                unit: Unit::Days,
                plot: Plot::Bars(vec![
                    ("web-05".into(), 88.0),
                    ("web-08 with a name that is rather long for a server".into(), 62.5),
                    ("web-10".into(), 41.0),
                    ("web-04".into(), 9.2),
                ]),
            }),
        ],
    }
}

fn nothing() -> Section {
    Section {
        key: "pools",
        title: "Pools".into(),
        text: Vec::new(),
        blocks: vec![Block::Table(Table {
            key: "pools",
            title: "PHP-FPM pools".into(),
            columns: vec![column("pool", "Pool", Unit::Text, true, "The pool's name.")],
            rows: Vec::new(),
            empty: "No pool was seen on these servers.",
        })],
    }
}
