//! Where it is and how much of it, in words. Pure.

use super::words::{many, number};
use crate::model::{Affected, Incident};

/// Names of the failing servers, as far as the incident names them.
#[must_use]
pub fn servers(incident: &Incident) -> Vec<String> {
    let place = &incident.place;
    let mut names: Vec<String> = Vec::new();
    let members = place.members.iter().map(|name| name.split('/').next().unwrap_or(name));
    for name in members.chain(place.server.as_deref()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// `web-07`, `hypervisor hv-3`, `a.example on web-07`.
#[must_use]
pub fn short(incident: &Incident) -> String {
    let place = &incident.place;
    match (incident.scope.as_str(), &place.server, &place.pool) {
        ("group", ..) => group(incident),
        ("site", ..) => match place.members.first().and_then(|name| name.split_once('/')) {
            Some((server, site)) => format!("{site} on {server}"),
            None => place.server.clone().unwrap_or_default(),
        },
        ("pool", Some(server), Some(pool)) => format!("pool {pool} on {server}"),
        ("pool", None, Some(pool)) => format!("backend {pool}"),
        (_, Some(server), _) => server.clone(),
        _ => servers(incident).into_iter().next().unwrap_or_else(|| "the fleet".to_owned()),
    }
}

/// `hypervisor hv-3`, `region eu and image deb12`, `14 servers`.
fn group(incident: &Incident) -> String {
    let place = &incident.place;
    if let (Some(label), Some(value)) = (&place.label, &place.value) {
        return format!("{label} {value}");
    }
    if let Some(labels) = &place.labels {
        let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k} {v}")).collect();
        return pairs.join(" and ");
    }
    many(incident.affected.n_servers, "server")
}

/// `37 of 41 sites on web-07; 987 of 1,234 requests failed (987 x 502)`. Of whole servers that are
/// silent or squeezed no request is counted, so their words are others.
#[must_use]
pub fn affected_words(incident: &Incident) -> String {
    let affected = &incident.affected;
    let is_over = incident.resolved_at.is_some();
    let tense = |now: &'static str, then: &'static str| if is_over { then } else { now };
    let one = affected.n_servers <= 1;
    let what = match incident.kind.as_str() {
        "silence" if one => tense("sends nothing", "sent nothing"),
        "silence" => tense("send nothing", "sent nothing"),
        "pressure" if one => tense("loses processor time", "lost processor time"),
        "pressure" => tense("lose processor time", "lost processor time"),
        "services" if one => tense("has a failed service", "had a failed service"),
        "services" => tense("have a failed service", "had a failed service"),
        _ => return sites_words(incident),
    };
    let who = match (&incident.place.server, incident.scope.as_str()) {
        (Some(server), _) => server.clone(),
        (None, "group") if incident.place.label.is_some() || incident.place.labels.is_some() => {
            format!("{} of {}", many(affected.n_servers, "server"), group(incident))
        }
        _ => many(affected.n_servers, "server"),
    };
    match affected.n_sites_active {
        0 => format!("{who} {what}"),
        n => format!(
            "{who} {what}; {} {} there",
            many(n, "site"),
            if n == 1 { "was active" } else { "were active" }
        ),
    }
}

fn sites_words(incident: &Incident) -> String {
    let affected = &incident.affected;
    let of_all = |n: u64| {
        let all = affected.n_sites_active.max(n);
        format!("{} of {}", number(n), many(all, "site"))
    };
    let where_ = match (incident.scope.as_str(), &incident.place.server) {
        ("site", _) => short(incident),
        ("pool", Some(server)) => match &incident.place.pool {
            Some(pool) => format!("{} of pool {pool} on {server}", of_all(affected.n_sites)),
            None => format!("{} on {server}", of_all(affected.n_sites)),
        },
        ("group", _) if incident.place.label.is_some() || incident.place.labels.is_some() => {
            let servers = many(affected.n_servers, "server");
            format!("{} on {servers} of {}", of_all(affected.n_sites), group(incident))
        }
        (_, Some(server)) => format!("{} on {server}", of_all(affected.n_sites)),
        _ => format!("{} on {}", of_all(affected.n_sites), many(affected.n_servers, "server")),
    };
    match failed_words(affected) {
        Some(failed) => format!("{where_}; {failed}"),
        None => where_,
    }
}

/// `987 of 1,234 requests failed (900 x 502, 87 x 504)`; `None` when none was counted.
#[must_use]
pub fn failed_words(affected: &Affected) -> Option<String> {
    if affected.n_requests == 0 && affected.n_gateway_errors == 0 {
        return None;
    }
    let mut kinds = [(affected.n_502, 502), (affected.n_503, 503), (affected.n_504, 504)];
    kinds.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let told = kinds.iter().filter(|(n, _)| *n > 0);
    let told: Vec<String> = told.map(|(n, status)| format!("{} x {status}", number(*n))).collect();
    let failed = number(affected.n_gateway_errors);
    let all = many(affected.n_requests.max(affected.n_gateway_errors), "request");
    let kinds = if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) };
    Some(format!("{failed} of {all} failed{kinds}"))
}
