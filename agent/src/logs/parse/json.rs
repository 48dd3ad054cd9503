//! One JSON object per line, with the names operators usually give to nginx variables.

pub(crate) mod form;

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::logs::parse::{access, time};
use crate::logs::{AccessRecord, Attempt, Line, LineTime, Rejected};

/// Keys of the fields that a plain line tells, the better ones first.
const STATUS: [&str; 3] = ["status", "status_code", "response_code"];
const HOST: [&str; 5] = ["host", "http_host", "vhost", "server_name", "domain"];
const CLIENT: [&str; 4] = ["remote_addr", "client_ip", "client", "remote_ip"];
const UPSTREAM: [&str; 2] = ["upstream_addr", "upstream"];
/// The time; where this key is, no other one is asked.
const TIME_LOCAL: &str = "time_local";
const ISO: [&str; 4] = ["time_iso8601", "@timestamp", "timestamp", "time"];
const EPOCH: [&str; 3] = ["msec", "ts", "time"];

/// One line.
pub(crate) fn parse<'l>(line: &[u8]) -> Line<'l> {
    let line = line.trim_ascii();
    if line.first() != Some(&b'{') {
        return Line::Rejected(Rejected::Malformed);
    }
    let object = serde_json::from_slice::<Map<String, Value>>(line).or_else(|error| {
        // A format without escape=json writes a quote as \x22, which JSON does not know.
        let text = String::from_utf8_lossy(line);
        if text.contains("\\x") {
            serde_json::from_str(&text.replace("\\x", "\\u00"))
        } else {
            Err(error)
        }
    });
    match object {
        Ok(object) => record(&object).map_or_else(Line::Rejected, Line::Access),
        Err(_) => Line::Rejected(Rejected::Malformed),
    }
}

/// The value of the first of these keys that says something.
fn field(object: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| {
        let text = match object.get(*key)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        (!text.is_empty() && text != "-").then_some(text)
    })
}

fn record<'l>(object: &Map<String, Value>) -> Result<AccessRecord<'l>, Rejected> {
    let get = |keys: &[&str]| field(object, keys);
    let cow = |keys: &[&str]| field(object, keys).map(Cow::<'l, str>::Owned);
    let status = get(&STATUS).ok_or(Rejected::Malformed)?;
    let status = access::status(status.as_bytes()).ok_or(Rejected::BadStatus)?;
    let request = get(&["request", "request_line"]).unwrap_or_default();
    let (method, target) = access::request_line(request.as_bytes()).unzip();
    let owned = |text: Cow<'_, str>| Cow::<'l, str>::Owned(text.into_owned());
    let attempts = access::attempts(
        get(&UPSTREAM).as_deref().map(str::as_bytes),
        get(&["upstream_status"]).as_deref().map(str::as_bytes),
        get(&["upstream_response_time"]).as_deref().map(str::as_bytes),
    )
    .into_iter()
    .map(|a| Attempt { upstream: owned(a.upstream), ..a })
    .collect();
    let number = |keys: &[&str]| field(object, keys).and_then(|t| access::number(t.as_bytes()));
    Ok(AccessRecord {
        time: record_time(object),
        host: cow(&HOST),
        client: cow(&CLIENT),
        forwarded_for: get(&["http_x_forwarded_for", "x_forwarded_for"])
            .and_then(|list| list.split(',').next().map(|first| first.trim().to_owned()))
            .filter(|first| !first.is_empty())
            .map(Cow::Owned),
        method: cow(&["request_method", "method"]).or(method.map(owned)),
        path: cow(&["request_uri", "uri", "path", "url"]).or(target.map(owned)),
        status: Some(status),
        attempts,
        no_upstream: object.get("upstream_addr").is_some_and(|addr| addr == "-"),
        request_time: number(&["request_time", "duration"]),
        user_agent: cow(&["http_user_agent", "user_agent"]),
        ..AccessRecord::default()
    })
}

fn record_time(object: &Map<String, Value>) -> Option<LineTime> {
    let local = field(object, &[TIME_LOCAL]).and_then(|t| time::clf(t.as_bytes()));
    let iso = || ISO.iter().find_map(|key| time::iso8601(field(object, &[key])?.as_bytes()));
    let clf = || field(object, &["time", "timestamp"]).and_then(|t| time::clf(t.as_bytes()));
    let epoch = || field(object, &EPOCH).and_then(|t| time::epoch_seconds(t.as_bytes()));
    if object.contains_key(TIME_LOCAL) {
        return local;
    }
    iso().or_else(clf).or_else(epoch)
}
