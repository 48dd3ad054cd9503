//! Writes the mails of the README as HTML files into a folder: of an outage, its end and a digest.
//!
//! `tests/screenshots.sh` runs it, and takes pictures of them.

use std::ops::RangeInclusive;
use std::path::Path;

use gatewatch_collector::model::Incident;
use gatewatch_collector::notify::chart::Chart;
use gatewatch_collector::notify::letter::Templates;
use gatewatch_collector::notify::{Event, Message, Page};
use serde_json::json;
use wire::UnixMillis;

/// 2026-11-20T12:01:07Z.
const START: i64 = 1_795_176_067;

fn main() {
    let folder = std::env::args().nth(1).expect("usage: mail FOLDER");
    let templates = Templates::new(None, None).expect("the built-in templates parse");
    for (name, message, chart) in [
        ("opened", message(Event::Opened, Some(outage(None)), 247), Some(chart(247))),
        ("resolved", message(Event::Resolved, Some(outage(Some(724))), 724), Some(chart(724))),
        ("digest", digest(), None),
    ] {
        let page = Page::new(&message, "https://gatewatch.example", chart.as_ref());
        let png = chart.map(|chart| format!("data:image/png;base64,{}", base64(&chart.png())));
        let letter = templates.render(&page, png.as_deref()).expect("the built-in templates work");
        for (kind, text) in [("html", letter.html), ("txt", letter.text)] {
            let path = Path::new(&folder).join(format!("{name}.{kind}"));
            std::fs::write(path, text).expect("the folder is writable");
        }
    }
}

fn at(s: i64) -> UnixMillis {
    UnixMillis::from_second(START + s)
}

fn message(event: Event, incident: Option<Incident>, s: i64) -> Message {
    let back = "php8.2-fpm.service active again at 12:13:02, 9 s before the last failure";
    Message {
        event,
        delivery: "01JD4Z8QK0DE11VERYDE11VERY".into(),
        at: at(s),
        reason: "it began".into(),
        incident,
        before: None,
        changed_back: (event == Event::Resolved).then(|| back.into()),
        digest: Vec::new(),
        report: None,
    }
}

/// 37 of 41 sites that share a pool which an update made too small.
fn outage(lasted_s: Option<i64>) -> Incident {
    let title = match lasted_s {
        None => {
            "37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www is exhausted"
        }
        Some(_) => {
            "37 of 41 sites on web-07 failed with 502 from 12:01:07 to 12:13:11: PHP-FPM pool www \
             was exhausted"
        }
    };
    let names = ["shop", "blog", "api", "intranet", "kb", "mail", "wiki", "forum", "cdn", "app"];
    let sites: Vec<String> = names.iter().map(|name| format!("{name}.example")).collect();
    let (n, failed) = traffic(0..=lasted_s.unwrap_or(247))
        .fold((0, 0), |sum, (_, n, failed)| (sum.0 + n, sum.1 + failed));
    let incident = json!({
        "id": "01JD4Z8QK0A1B2C3D4E5F6G7H8", "kind": "gateway_errors",
        "state": if lasted_s.is_some() { "resolved" } else { "open" },
        "severity": "critical", "scope": "server",
        "where": {"server": "web-07", "pool": "www", "label": null, "value": null, "labels": null,
            "members": ["web-07"], "sites": sites},
        "title": title, "started_at": at(0).to_rfc3339(), "detected_at": at(2).to_rfc3339(),
        "resolved_at": lasted_s.map(|s| at(s).to_rfc3339()), "updated_at": at(30).to_rfc3339(),
        "retroactive": false,
        "affected": {"n_sites": 37, "n_sites_active": 41, "n_servers": 1, "n_requests": n,
            "n_gateway_errors": failed, "n_502": failed - 31, "n_503": 0, "n_504": 31},
        "cause": {"class": "overload", "confidence": 0.97, "evidence": [
            {"kind": "log", "text": "[pool www] server reached pm.max_children setting (5), consider \
                raising it", "at": at(-1).to_rfc3339(), "server": "web-07", "weight": 3.1},
            {"kind": "log", "text": "connect() to unix:/run/php/php8.2-fpm-www.sock failed (11: \
                Resource temporarily unavailable) while connecting to upstream",
                "at": at(0).to_rfc3339(), "server": "web-07", "weight": 2.4}],
            "alternatives": [{"class": "oom", "confidence": 0.02}]},
        "change": {"kind": "package", "text": "php8.2-fpm 8.2.7 to 8.2.29",
            "at": at(-65).to_rfc3339(), "score": 0.8},
        "actions": [{"text": "See whether the pool is up and how busy it is",
            "command": "systemctl status php8.2-fpm.service"}],
        "parent": null, "children": [], "acked_by": null, "silenced": false, "timeline": []});
    serde_json::from_value(incident).expect("it is an incident of the contract")
}

fn digest() -> Message {
    let mut other = Incident {
        severity: "info".into(),
        title:
            "shop.example on web-03 burns its error budget since 03:12:00: 0.4 % of requests fail \
                with 504"
                .into(),
        kind: "slow_burn".into(),
        scope: "site".into(),
        started_at: at(-31_747),
        ..outage(None)
    };
    other.place.server = Some("web-03".into());
    other.place.members = vec!["web-03/shop.example".into()];
    let mut pressure = outage(Some(724));
    pressure.resolved_at = Some(at(-40_000));
    pressure.severity = "info".into();
    pressure.kind = "pressure".into();
    pressure.scope = "group".into();
    pressure.started_at = at(-45_667);
    pressure.title =
        "6 servers of hypervisor hv-3 lost processor time to their hypervisor from 23:20:00 \
                      to 00:54:27: steal up to 38 %"
            .into();
    (pressure.place.label, pressure.place.value) = (Some("hypervisor".into()), Some("hv-3".into()));
    Message {
        digest: vec![pressure, other, outage(Some(724))],
        reason: "since yesterday 08:00".into(),
        ..message(Event::Digest, None, 71_933)
    }
}

fn chart(until_s: i64) -> Chart {
    let mut chart = Chart::new(at(-600), at(until_s));
    for (s, n, failed) in traffic(-620..=until_s) {
        chart.add(at(s), n, failed);
    }
    chart
}

/// Second, requests and failures: steady traffic with a little noise, most of which fails once the pool
/// is full, until it is started anew.
fn traffic(seconds: RangeInclusive<i64>) -> impl Iterator<Item = (i64, u64, u64)> {
    seconds.map(|s| {
        let cell = s.div_euclid(15);
        let noise = (cell * cell * 7 + cell * 3).rem_euclid(11) as u64;
        let n = 20 + noise / 2 + s.rem_euclid(3) as u64;
        let failed = match s {
            ..0 | 725.. => 0,
            0..8 | 716.. => n / 3,
            _ => n * 3 / 4 + noise / 3,
        };
        (s, n, failed.min(n))
    })
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n)) as usize & 63] as char;
            out.push(if n > chunk.len() { '=' } else { letter });
        }
    }
    out
}
