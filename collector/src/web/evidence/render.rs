//! The bundle as a page: one file without scripts or links, that prints well. Pure.

use std::fmt::Write as _;

use super::{Bundle, Curve, ServerEvidence};

const STYLE: &str = "body{font:14px/1.45 sans-serif;margin:2em auto;max-width:70em;padding:0 1em;\
color:#111}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.6em}table{border-collapse:collapse;\
width:100%}th,td{border:1px solid #bbb;padding:.3em .5em;text-align:left;vertical-align:top}\
th{background:#eee}td{overflow-wrap:anywhere}svg{display:block;width:12em;height:2.4em}\
polyline{fill:none;stroke:#a00;stroke-width:1.5}dt{font-weight:bold}dd{margin:0 0 .4em}\
@media print{body{margin:0;max-width:none}tr{break-inside:avoid}}";

/// Size of a curve, in its own units.
const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 48.0;

/// Renders the page. Whatever came from a server is text, never markup.
pub(super) fn page(bundle: &Bundle) -> String {
    let mut html = String::new();
    let incident = &bundle.incident;
    let title = escaped(&incident.title);
    put(
        &mut html,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<dl>\n"
        ),
    );
    let ended = incident.resolved_at.map_or_else(|| "not yet".to_owned(), |at| at.to_string());
    let cause = format!("{} ({:.0} %)", incident.cause.class, incident.cause.confidence * 100.0);
    for (name, value) in [
        ("Incident", incident.id.clone()),
        ("Kind and scope", format!("{}, {}", incident.kind, incident.scope)),
        ("Began", incident.started_at.to_string()),
        ("Found", incident.detected_at.to_string()),
        ("Ended", ended),
        ("Cause", cause),
        ("Servers hit", bundle.n_servers.to_string()),
        ("Times", bundle.clock.clone()),
        ("Looked at", format!("{} to {}", bundle.from, bundle.to)),
        ("Made", bundle.made_at.to_string()),
    ] {
        put(&mut html, format_args!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value)));
    }
    html.push_str("</dl>\n");
    if bundle.truncated {
        html.push_str("<p>Some of it is left out: there is more than this page holds, or the store no longer has it.</p>\n");
    }
    servers(&mut html, &bundle.servers);
    let cause = incident.cause.evidence.iter().map(|evidence| {
        let server = evidence.server.as_deref().unwrap_or("-");
        [evidence.at.to_string(), server.to_owned(), evidence.kind.clone(), evidence.text.clone()]
    });
    table(&mut html, "Evidence", ["Time", "Server", "Kind", "What"], cause);
    let facts = bundle.servers.iter().flat_map(|server| {
        server.facts.iter().map(|fact| {
            [fact.at.to_string(), server.server.clone(), fact.kind.clone(), fact.text.clone()]
        })
    });
    table(&mut html, "Services, logs and changes", ["Time", "Server", "Kind", "What"], facts);
    let moments = incident.timeline.iter().map(|m| [m.at.to_string(), m.what.clone()]);
    table(&mut html, "Timeline", ["Time", "What"], moments);
    let own = bundle.collector.iter().map(|event| {
        let name = serde_json::to_value(event.event).ok();
        let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_owned();
        [event.at.to_string(), name]
    });
    table(&mut html, "The collector itself", ["Time", "What"], own);
    html.push_str("</body></html>\n");
    html
}

fn servers(html: &mut String, servers: &[ServerEvidence]) {
    html.push_str(
        "<h2>Servers in the order they were hit</h2>\n<table><tr><th>#</th><th>Server</th>\
         <th>Labels</th><th>Hit</th><th>Well again</th><th>Clock</th><th>Steal</th>\
         <th>Sent again</th><th>Nothing arrived</th></tr>\n",
    );
    for server in servers {
        let labels: Vec<String> = server.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let well = server.well_at.map_or_else(|| "not yet".to_owned(), |at| at.to_string());
        let clock = server.clock_offset_ms.map(|ms| format!("{:+.3} s", ms as f64 / 1000.0));
        let silences = server.silences.iter().map(|silence| {
            let to = silence.to.map_or_else(|| "now".to_owned(), |at| at.to_string());
            format!("{} to {to}", silence.from)
        });
        put(
            html,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{well}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td></tr>\n",
                server.order,
                escaped(&server.server),
                escaped(&labels.join(", ")),
                server.onset_at,
                clock.as_deref().unwrap_or("-"),
                curve(server.steal.as_ref()),
                curve(server.retransmit.as_ref()),
                silences.collect::<Vec<_>>().join("<br>"),
            ),
        );
    }
    html.push_str("</table>\n");
}

fn curve(curve: Option<&Curve>) -> String {
    let Some(curve) = curve else { return "not sampled".to_owned() };
    let percent = |value: f64| format!("{:.1}", value * 100.0);
    let words = format!(
        "{} to {} %, mean {} %",
        percent(curve.min),
        percent(curve.max),
        percent(curve.mean)
    );
    let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else {
        return words;
    };
    let span = (last.at.0 - first.at.0).max(1) as f64;
    let place = |point: &super::Point| {
        let x = (point.at.0 - first.at.0) as f64 / span * WIDTH;
        let y = HEIGHT - point.value.clamp(0.0, 1.0) * HEIGHT;
        format!("{x:.1},{y:.1}")
    };
    let line: Vec<String> = curve.points.iter().map(place).collect();
    format!(
        "{words}<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\"><polyline points=\"{}\"/></svg>",
        line.join(" ")
    )
}

fn table<const N: usize>(
    html: &mut String,
    title: &str,
    heads: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    put(
        html,
        format_args!("<h2>{title}</h2>\n<table><tr><th>{}</th></tr>\n", heads.join("</th><th>")),
    );
    for row in rows {
        let cells = row.map(|cell| escaped(&cell));
        put(html, format_args!("<tr><td>{}</td></tr>\n", cells.join("</td><td>")));
    }
    html.push_str("</table>\n");
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("writing to a String cannot fail");
}

/// Text that is nothing but text, also inside quotes; control characters are made visible.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use wire::UnixMillis;

    use super::super::{Fact, Point, Silence};
    use super::*;

    #[test]
    fn whatever_a_server_says_is_text_on_the_page() {
        let evil = "<script>alert(1)</script>\"'&\u{1b}[2J";
        let mut incident = crate::samples::incident();
        evil.clone_into(&mut incident.title);
        evil.clone_into(&mut incident.cause.evidence[0].text);
        evil.clone_into(&mut incident.timeline[0].what);
        let at = UnixMillis(1_795_176_067_000);
        let point = |n: i64| Point { at: UnixMillis(at.0 + n * 1000), value: n as f64 / 100.0 };
        let points: Vec<Point> = (0..50).map(point).collect();
        let server = ServerEvidence {
            server: evil.to_owned(),
            order: 1,
            labels: [(evil.to_owned(), evil.to_owned())].into(),
            onset_at: at,
            well_at: None,
            clock_offset_ms: Some(-1500),
            steal: Some(Curve { min: 0.0, mean: 0.245, max: 0.49, points }),
            retransmit: None,
            silences: vec![Silence { from: at, to: None }],
            facts: vec![Fact { at, kind: evil.to_owned(), text: evil.to_owned() }],
        };
        let bundle = Bundle {
            made_at: at,
            from: at,
            to: at,
            clock: "UTC".into(),
            incident,
            n_servers: 1,
            servers: vec![server],
            collector: Vec::new(),
            truncated: true,
        };
        let page = page(&bundle);
        assert!(!page.contains("<script") && !page.contains('\u{1b}'), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 10, "{page}");
        for shown in [
            "0.0 to 49.0 %, mean 24.5 %",
            "<polyline points=\"0.0,48.0 ",
            "-1.500 s",
            "not sampled",
            "left out",
        ] {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
        let outside = ["http://", "https://", "src=", "href=", "url("];
        assert!(outside.iter().all(|word| !page.contains(word)), "nothing is loaded");
    }
}
