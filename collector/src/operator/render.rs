//! Tables and pages of the operator commands. Pure.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use wire::UnixMillis;

use super::ledger;
use super::text::{clean, instant, labels, percent, plural, size, span, time_near};
use crate::model::Incident;
use crate::notify::matcher::OWN_KEYS;
use crate::notify::reach;
use crate::store::fleet::{LabelSource, ServerDetail, ServerView};
use crate::store::tokens::{TokenState, TokenView};
use crate::web::api::NewToken;
use crate::web::silences::SilenceView;

/// Sites named in full on an incident's page.
const SITES_SHOWN: usize = 20;

/// `token create`
#[must_use]
pub(super) fn new_token(made: &NewToken) -> String {
    let whom = match &made.replace {
        Some(name) => format!("gives a new machine the name and history of {name}"),
        None => format!("admits {}", plural(made.uses.into(), "server")),
    };
    format!(
        "Token {} {whom} until {}. It is shown this once.\n\n\
         On a new machine, as root:\n\n  {}\n\n\
         Where the agent is installed already:\n\n  {}\n",
        made.id,
        instant(made.expires_at),
        made.command,
        made.enroll_command
    )
}

/// `token list`
#[must_use]
pub(super) fn tokens(tokens: &[TokenView], now: UnixMillis) -> String {
    if tokens.is_empty() {
        return "No tokens. Make one with `gatewatch-collector token create`.\n".into();
    }
    let mut table = table(&["ID", "STATE", "USED", "EXPIRES", "REPLACES", "LABELS"]);
    for token in tokens {
        let state = match token.state {
            TokenState::Valid => "valid",
            TokenState::Expired => "expired",
            TokenState::UsedUp => "used up",
            TokenState::Revoked => "revoked",
        };
        let expires = if token.expires_at > now {
            format!("in {}", span(token.expires_at.since(now)))
        } else {
            format!("{} ago", span(now.since(token.expires_at)))
        };
        table.add_row(vec![
            token.id.clone(),
            state.to_owned(),
            format!("{} of {}", token.n_used, token.uses),
            expires,
            token.replace.as_deref().map_or("-".into(), clean),
            labels(&token.labels),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

/// `agent list`
#[must_use]
pub(super) fn servers(servers: &[ServerView], silences: &[SilenceView], now: UnixMillis) -> String {
    if servers.is_empty() {
        return "No servers. `gatewatch-collector token create` prints how one joins.\n".into();
    }
    let mut table = table(&[
        "SERVER",
        "STATE",
        "LAST SEEN",
        "VERSION",
        "SITES",
        "CLOCK",
        "SPOOL",
        "LOST",
        "LABELS",
    ]);
    for server in servers {
        table.add_row(vec![
            clean(&server.server),
            state(server, silences),
            seen(server, now),
            server.version.as_deref().map_or("-".into(), clean),
            server.n_sites.to_string(),
            server.clock_offset_ms.map_or("-".into(), clock_offset),
            server.spool_bytes.map_or("-".into(), size),
            lost(server),
            labels(&server.labels),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

/// `agent show`
#[must_use]
pub(super) fn server(detail: &ServerDetail, silences: &[SilenceView], now: UnixMillis) -> String {
    let view = &detail.view;
    let mut page = Page::new();
    page.line(format_args!("{}  {}", clean(&view.server), state(view, silences)));
    page.gap();
    page.entry("Last seen", &seen(view, now));
    page.entry("Joined", &instant(detail.first_seen_at));
    page.entry("Version", &view.version.as_deref().map_or("unknown".into(), clean));
    if let Some(n_cpu) = detail.n_cpu {
        page.entry("Processors", &n_cpu.to_string());
    }
    if let Some(ms) = view.clock_offset_ms {
        page.entry("Clock", &format!("{:+.3} s against the collector's", ms as f64 / 1000.0));
    }
    if let Some(n_bytes) = view.spool_bytes {
        page.entry("Spool", &format!("{} still to send", size(n_bytes)));
    }
    page.entry("Id", &detail.uuid);
    page.gap();
    page.line(format_args!("Labels"));
    let mut last = "";
    for label in &detail.label_sources {
        let source = match label.source {
            LabelSource::Operator => "operator",
            LabelSource::Token => "token",
            LabelSource::Config => "config",
            LabelSource::Detected => "detected",
        };
        let hidden = if last == label.k { ", hidden" } else { "" };
        page.line(format_args!("  {}={}  ({source}{hidden})", clean(&label.k), clean(&label.v)));
        last = &label.k;
    }
    page.gap();
    for line in ledger::lines(view) {
        page.line(format_args!("{line}"));
    }
    page.gap();
    page.line(format_args!("Certificates"));
    for certificate in &detail.certificates {
        let state = match certificate.revoked_at {
            Some(at) => format!("revoked {}", instant(at)),
            None if certificate.not_after <= now => "expired".into(),
            None => format!("until {}", instant(certificate.not_after)),
        };
        page.line(format_args!("  {}  {state}", certificate.serial));
    }
    page.gap();
    page.line(format_args!("Sites ({})", detail.sites.len()));
    for site in &detail.sites {
        let behind = site.pool.as_deref().or(site.upstream.as_deref());
        let owner =
            site.owner.as_deref().map_or(String::new(), |o| format!("  owner {}", clean(o)));
        page.line(format_args!("  {}  {}{owner}", clean(&site.site), clean(behind.unwrap_or("-"))));
    }
    page.0
}

/// `incident list`
#[must_use]
pub(super) fn incidents(incidents: &[Incident], now: UnixMillis) -> String {
    if incidents.is_empty() {
        return "No incidents.\n".into();
    }
    let mut table = table(&["ID", "SEVERITY", "STATE", "SINCE", "OPEN FOR", "ACK", "TITLE"]);
    for incident in incidents {
        let end = incident.resolved_at.unwrap_or(now);
        table.add_row(vec![
            clean(&incident.id),
            clean(&incident.severity),
            format!("{}{}", clean(&incident.state), silenced(incident.silenced)),
            instant(incident.started_at),
            span(end.since(incident.started_at)),
            incident.acked_by.as_deref().map_or("-".into(), clean),
            clean(&incident.title),
        ]);
    }
    format!("{}\n", trimmed(&table))
}

/// `incident show`: a page for somebody who was just woken. `link`: where it is in a browser.
#[must_use]
pub(super) fn incident(incident: &Incident, link: Option<&str>, now: UnixMillis) -> String {
    let mut page = Page::new();
    let severity = clean(&incident.severity).to_uppercase();
    let state = format!("{}{}", clean(&incident.state), silenced(incident.silenced));
    page.line(format_args!("{severity}  {state}  {}", clean(&incident.id)));
    page.line(format_args!("{}", clean(&incident.title)));
    page.gap();
    facts(&mut page, incident, now);
    if incident.silenced {
        let how = "a maintenance window covers it: `gatewatch-collector silence list` shows which";
        page.entry("Silenced", how);
    }
    if let Some(link) = link {
        page.entry("Link", &clean(link));
    }
    page.gap();
    cause(&mut page, incident);
    if !incident.actions.is_empty() {
        page.gap();
        page.line(format_args!("Next"));
        for (n, action) in incident.actions.iter().enumerate() {
            page.line(format_args!("  {}. {}", n + 1, clean(&action.text)));
            if let Some(command) = &action.command {
                page.line(format_args!("     $ {}", clean(command)));
            }
        }
    }
    page.gap();
    page.line(format_args!("Timeline"));
    for moment in &incident.timeline {
        let at = time_near(moment.at, incident.started_at);
        page.line(format_args!("  {at}  {}", clean(&moment.what)));
    }
    page.0
}

fn facts(page: &mut Page, incident: &Incident, now: UnixMillis) {
    let found = span(incident.detected_at.since(incident.started_at));
    let since = instant(incident.started_at);
    page.entry(
        "Since",
        &match incident.resolved_at {
            Some(end) => format!("{since} for {}", span(end.since(incident.started_at))),
            None => format!("{since}, {} ago", span(now.since(incident.started_at))),
        },
    );
    page.entry("Detected", &format!("{found} after the first failure"));
    if let Some(end) = incident.resolved_at {
        page.entry("Resolved", &format!("{}, {} ago", instant(end), span(now.since(end))));
    }
    let a = &incident.affected;
    let codes = [(502, a.n_502), (503, a.n_503), (504, a.n_504)];
    let codes: Vec<String> =
        codes.iter().filter(|(_, n)| *n > 0).map(|(status, n)| format!("{n} x {status}")).collect();
    let codes = if codes.is_empty() { String::new() } else { format!(": {}", codes.join(", ")) };
    let (sites, servers) = (plural(a.n_sites_active, "active site"), plural(a.n_servers, "server"));
    page.entry("Affected", &format!("{} of {sites} on {servers}", a.n_sites));
    let requests = plural(a.n_requests, "request");
    page.entry("Failed", &format!("{} of {requests}{codes}", a.n_gateway_errors));
    if a.n_crawler > 0 {
        let seen = format!("{} of these, by the User-Agent they gave", a.n_crawler);
        page.entry("Crawlers", &format!("of search engines saw {seen}"));
    }
    page.entry("Where", &place(incident));
    if !incident.place.sites.is_empty() {
        let shown: Vec<String> =
            incident.place.sites.iter().take(SITES_SHOWN).map(|site| clean(site)).collect();
        let n_more = (a.n_sites as usize).max(incident.place.sites.len()) - shown.len();
        let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
        page.entry("Sites", &format!("{}{more}", shown.join(", ")));
    }
    page.entry(
        "Taken by",
        &match &incident.acked_by {
            Some(by) => clean(by),
            None if incident.state == "open" => {
                format!(
                    "nobody; `gatewatch-collector incident ack {}` takes it",
                    clean(&incident.id)
                )
            }
            None => "nobody".into(),
        },
    );
    if incident.retroactive {
        page.entry("Note", "found in data that arrived late; nobody was notified");
    }
    if let Some(parent) = &incident.parent {
        page.entry("Part of", &clean(parent));
    }
    if !incident.children.is_empty() {
        let children: Vec<String> = incident.children.iter().map(|child| clean(child)).collect();
        page.entry("Contains", &children.join(", "));
    }
}

fn place(incident: &Incident) -> String {
    let place = &incident.place;
    let mut parts = vec![format!("scope {}", clean(&incident.scope))];
    let fields = [("server", &place.server), ("pool", &place.pool)];
    parts.extend(
        fields.iter().filter_map(|(k, v)| v.as_deref().map(|v| format!("{k} {}", clean(v)))),
    );
    if let (Some(label), Some(value)) = (&place.label, &place.value) {
        parts.push(format!("{}={}", clean(label), clean(value)));
    }
    if let Some(pair) = &place.labels {
        parts.push(labels(pair));
    }
    if place.server.is_none() && !place.members.is_empty() {
        let members: Vec<String> =
            place.members.iter().take(SITES_SHOWN).map(|m| clean(m)).collect();
        let n_more = place.members.len() - members.len();
        let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
        parts.push(format!("members {}{more}", members.join(", ")));
    }
    parts.join(", ")
}

fn cause(page: &mut Page, incident: &Incident) {
    let cause = &incident.cause;
    let mut text = format!("{}, {} sure", clean(&cause.class), percent(cause.confidence));
    let others: Vec<String> = cause
        .alternatives
        .iter()
        .map(|other| format!("{} {}", clean(&other.class), percent(other.confidence)))
        .collect();
    if !others.is_empty() {
        write!(text, "; else {}", others.join(", ")).expect("writing to a String cannot fail");
    }
    page.entry("Cause", &text);
    for evidence in &cause.evidence {
        let at = time_near(evidence.at, incident.started_at);
        let server = evidence.server.as_deref().map_or(String::new(), |s| format!(" {}", clean(s)));
        page.line(format_args!(
            "  {:+5.1}  {at}{server} {}: {}",
            evidence.weight,
            clean(&evidence.kind),
            clean(&evidence.text)
        ));
    }
    if let Some(change) = &incident.change {
        let at = time_near(change.at, incident.started_at);
        let (kind, what) = (clean(&change.kind), clean(&change.text));
        let text = format!("{at} {kind}: {what} (suspicion {})", percent(change.score));
        page.entry("Changed", &text);
    }
}

/// One line of `incident follow`.
#[must_use]
pub(super) fn change(event: &str, incident: &Incident, now: UnixMillis) -> String {
    let at = if event == "resolved" { incident.resolved_at } else { None };
    let at = at.unwrap_or(if event == "updated" { now } else { incident.detected_at });
    let tail = match (&incident.parent, event) {
        (Some(parent), "updated") => format!("part of {}", clean(parent)),
        // What happened to it last; where that is the opening, only the numbers have moved.
        (None, "updated") => match incident.timeline.last() {
            Some(moment) if incident.timeline.len() > 1 => clean(&moment.what),
            _ => {
                let n = incident.affected;
                format!("{} of {} requests failed", n.n_gateway_errors, n.n_requests)
            }
        },
        (_, "resolved") => {
            // Longer than the failures: the quiet after them is waited for.
            format!("open for {}", span(at.since(incident.started_at)))
        }
        _ => {
            let cause = &incident.cause;
            format!("cause {} {}", clean(&cause.class), percent(cause.confidence))
        }
    };
    format!(
        "{}  {event:<8}  {:<8}  {}  [{tail}]  {}",
        instant(at),
        clean(&incident.severity),
        clean(&incident.title),
        clean(&incident.id)
    )
}

/// State of a server, and whether a maintenance window covers all of it now.
fn state(server: &ServerView, silences: &[SilenceView]) -> String {
    let matched = reach::Server {
        name: server.server.clone(),
        labels: server.labels.clone(),
        ..reach::Server::default()
    };
    let is_silenced = silences.iter().any(|view| {
        let matches = &view.silence.matches;
        let is_of_servers = |key: &String| key == "server" || !OWN_KEYS.contains(&key.as_str());
        matches.keys().all(is_of_servers) && matched.is_in(matches)
    });
    format!("{}{}", clean(&server.state), silenced(is_silenced))
}

fn silenced(is_silenced: bool) -> &'static str {
    if is_silenced { ", silenced" } else { "" }
}

fn seen(server: &ServerView, now: UnixMillis) -> String {
    server.last_seen_at.map_or("never".into(), |at| format!("{} ago", span(now.since(at))))
}

/// To a tenth of a second; a clock that is right has no sign.
fn clock_offset(ms: i64) -> String {
    if ms.abs() < 50 { "0.0 s".into() } else { format!("{:+.1} s", ms as f64 / 1000.0) }
}

/// What a server lost for good; rejected lines were never records, so they are not in it.
fn lost(server: &ServerView) -> String {
    let n = |k: &str| server.loss.get(k).copied().unwrap_or(0);
    let (n_lines, n_bytes) = (n("n_lines_lost"), n("n_bytes_lost"));
    match (n_lines, n_bytes) {
        (0, 0) => "nothing".into(),
        (lines, 0) => plural(lines, "line"),
        (0, bytes) => size(bytes),
        (lines, bytes) => format!("{}, {}", plural(lines, "line"), size(bytes)),
    }
}

/// A table without lines: it can be cut and grepped. Fits the terminal when there is one.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

/// Without the space before and after each line.
pub(super) fn trimmed(table: &Table) -> String {
    let line = |line: String| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A page of lines.
struct Page(String);

impl Page {
    fn new() -> Self {
        Self(String::new())
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a String cannot fail");
    }

    fn entry(&mut self, name: &str, value: &str) {
        self.line(format_args!("{name:<11}{value}"));
    }

    fn gap(&mut self) {
        self.0.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::model::Moment;
    use crate::samples::{START, incident as sample};
    use crate::store::fleet::{CertificateView, LabelView, SiteView};

    fn after(s: u64) -> UnixMillis {
        START.plus(Duration::from_secs(s))
    }

    #[test]
    fn an_incident_reads_like_a_page_for_somebody_just_woken() {
        let page = incident(&sample(), None, after(1380));
        let expected = "\
CRITICAL  open  01JD4Z8QK0A1B2C3D4E5F6G7H8
37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www is exhausted

Since      2026-11-20 12:01:07 UTC, 23 min ago
Detected   2 s after the first failure
Affected   37 of 41 active sites on 1 server
Failed     987 of 1234 requests: 987 x 502
Crawlers   of search engines saw 12 of these, by the User-Agent they gave
Where      scope server, server web-07, pool www
Sites      a.example, b.example and 35 more
Taken by   nobody; `gatewatch-collector incident ack 01JD4Z8QK0A1B2C3D4E5F6G7H8` takes it

Cause      overload, 97 % sure; else oom 2 %
   +3.1  12:01:06 web-07 log: [pool www] server reached pm.max_children setting (5), consider raising it
Changed    12:00:02 package: php8.2-fpm 8.2.7 to 8.2.29 (suspicion 80 %)

Next
  1. See whether the pool is up and how busy it is
     $ systemctl status php8.2-fpm
  2. Ask the owner of the sites about slow requests

Timeline
  12:01:09  opened
";
        assert_eq!(page, expected);
    }

    #[test]
    fn a_resolved_merged_incident_says_so() {
        let mut over = sample();
        over.state = "resolved".into();
        over.resolved_at = Some(after(90));
        over.acked_by = Some("ann".into());
        over.parent = Some("01JD4Z8QK1".into());
        over.retroactive = true;
        over.change = None;
        over.actions.clear();
        let page = incident(&over, None, after(150));
        for line in [
            "Since      2026-11-20 12:01:07 UTC for 1 min 30 s",
            "Resolved   2026-11-20 12:02:37 UTC, 1 min ago",
            "Taken by   ann",
            "Part of    01JD4Z8QK1",
            "Note       found in data that arrived late; nobody was notified",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("Next") && !page.contains("Changed"), "{page}");
    }

    #[test]
    fn what_is_silenced_says_so_and_an_incident_has_its_link() {
        let quiet = Incident { silenced: true, ..sample() };
        let page = incident(&quiet, Some("https://gw.example/incidents/01JD"), after(1));
        assert!(page.starts_with("CRITICAL  open, silenced  01JD4"), "{page}");
        assert!(page.contains("\nSilenced   a maintenance window covers it: "), "{page}");
        assert!(page.contains("\nLink       https://gw.example/incidents/01JD\n"), "{page}");
        assert!(incidents(&[quiet], after(1)).contains("open, silenced"));
        let silence = |key: &str, value: &str| SilenceView {
            state: "active".into(),
            silence: crate::store::silences::Silence {
                id: "01JD".into(),
                matches: BTreeMap::from([(key.into(), value.into())]),
                starts_at: START,
                ends_at: after(60),
                reason: "r".into(),
                by: "ann".into(),
                made_at: START,
                ended_at: None,
                ended_by: None,
            },
        };
        for (key, value, shown) in [
            ("rack", "r*", true),
            ("server", "web-07", true),
            ("rack", "r7", false),
            ("site", "a.example", false),
            ("severity", "*", false),
        ] {
            let text = servers(&[detail().view], &[silence(key, value)], after(9));
            assert_eq!(text.contains("up, silenced"), shown, "{key}={value}: {text}");
        }
    }

    #[test]
    fn log_texts_of_strangers_send_nothing_to_the_terminal() {
        let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\nINJECTED";
        let mut hostile = sample();
        hostile.title = evil.into();
        hostile.cause.evidence[0].text = evil.into();
        hostile.place.sites = vec![evil.into()];
        hostile.place.pool = Some(evil.into());
        hostile.acked_by = Some(evil.into());
        hostile.timeline[0].what = evil.into();
        hostile.actions[0].command = Some(evil.into());
        for text in [
            incident(&hostile, Some(evil), after(1)),
            incidents(std::slice::from_ref(&hostile), after(1)),
            change("opened", &hostile, after(1)),
        ] {
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            assert!(!text.lines().any(|line| line.trim_start().starts_with("INJECTED")), "{text}");
        }
    }

    #[test]
    fn incidents_are_a_table() {
        assert_eq!(incidents(&[], START), "No incidents.\n");
        let text = incidents(&[sample()], after(320));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ID ") && lines[0].contains("SEVERITY"), "{text}");
        for part in ["01JD4Z8QK0A1B2C3D4E5F6G7H8", "critical", "open", "5 min 20 s", "37 of 41"] {
            assert!(lines[1].contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn changes_are_lines() {
        let mut now = sample();
        let head = "2026-11-20 12:01:09 UTC  opened    critical  37 of 41 sites";
        assert!(change("opened", &now, after(9)).starts_with(head));
        assert!(change("opened", &now, after(9)).contains("[cause overload 97 %]"));
        now.timeline.push(Moment { at: after(8), what: "acknowledged by ann".into() });
        assert!(change("updated", &now, after(9)).contains("[acknowledged by ann]"));
        now.parent = Some("01JD".into());
        let line = change("updated", &now, after(9));
        assert!(
            line.starts_with("2026-11-20 12:01:16 UTC  updated") && line.contains("[part of 01JD]")
        );
        now.resolved_at = Some(after(61));
        assert!(change("resolved", &now, after(99)).contains("[open for 1 min 1 s]"));
    }

    fn detail() -> ServerDetail {
        ServerDetail {
            view: ServerView {
                server: "web-07".into(),
                labels: BTreeMap::from([("rack".into(), "r9".into())]),
                version: Some("0.1.0".into()),
                state: "up".into(),
                last_seen_at: Some(START),
                clock_offset_ms: Some(-1500),
                spool_bytes: Some(2048),
                n_sites: 1,
                loss: BTreeMap::from([("n_lines_lost".into(), 7), ("n_bytes_lost".into(), 1536)]),
                ledger: crate::store::Ledger {
                    n_lines_counted: 90,
                    n_lines_rejected: 3,
                    n_lines_lost: 7,
                    n_bytes_counted: 18_000,
                    n_bytes_rejected: 464,
                    n_bytes_lost: 1536,
                }
                .into(),
            },
            uuid: "01JD".into(),
            first_seen_at: START,
            n_cpu: Some(8),
            label_sources: vec![
                LabelView { k: "rack".into(), v: "r9".into(), source: LabelSource::Operator },
                LabelView { k: "rack".into(), v: "r7".into(), source: LabelSource::Token },
            ],
            certificates: vec![CertificateView {
                serial: "4a".into(),
                issued_at: START,
                not_after: after(60),
                revoked_at: None,
            }],
            sites: vec![SiteView {
                site: "a.example".into(),
                pool: Some("www".into()),
                upstream: None,
                owner: Some("acme".into()),
            }],
        }
    }

    #[test]
    fn servers_show_what_they_lost() {
        let text = servers(&[detail().view], &[], after(9));
        for part in
            ["web-07", "up", "9 s ago", "0.1.0", "-1.5 s", "2.0 KiB", "7 lines, 1.5 KiB", "rack=r9"]
        {
            assert!(text.lines().nth(1).unwrap().contains(part), "{part}: {text}");
        }
        let page = server(&detail(), &[], after(9));
        for line in [
            "web-07  up",
            "  rack=r9  (operator)",
            "  rack=r7  (token, hidden)",
            "  100 lines = 90 + 3 + 7",
            "  20000 bytes = 18000 + 464 + 1536",
            "  n_lines_lost             7",
            "      log lines whose counts were lost with their batches",
            "  4a  until 2026-11-20 12:02:07 UTC",
            "  a.example  www  owner acme",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
        assert!(server(&detail(), &[], after(61)).contains("  4a  expired"));
        assert!(servers(&[], &[], START).contains("token create"));
        assert_eq!([-49, 50, 0].map(clock_offset), ["0.0 s", "+0.1 s", "0.0 s"]);
    }

    #[test]
    fn tokens_show_their_state_and_a_new_one_its_commands() {
        let token = TokenView {
            id: "abc".into(),
            state: TokenState::UsedUp,
            created_at: START,
            expires_at: after(3600),
            uses: 3,
            n_used: 3,
            labels: BTreeMap::from([("rack".into(), "r7".into())]),
            replace: None,
        };
        let text = tokens(std::slice::from_ref(&token), START);
        for part in ["abc", "used up", "3 of 3", "in 1 h", "rack=r7"] {
            assert!(text.lines().nth(1).unwrap().contains(part), "{part}: {text}");
        }
        assert!(tokens(&[token], after(3660)).contains("1 min ago"));
        let made = NewToken {
            id: "abc".into(),
            token: "abc.secret".into(),
            ca_hash: "sha256:00".into(),
            expires_at: after(3600),
            uses: 1,
            labels: BTreeMap::new(),
            replace: Some("web-07".into()),
            command: "curl x | sh".into(),
            enroll_command: "gatewatch-agent enroll".into(),
        };
        let text = new_token(&made);
        assert!(
            text.contains("name and history of web-07 until 2026-11-20 13:01:07 UTC"),
            "{text}"
        );
        assert!(
            text.contains("\n  curl x | sh\n") && text.contains("\n  gatewatch-agent enroll\n")
        );
    }
}
