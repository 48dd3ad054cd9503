//! One JSON object per line, with the names operators usually give to nginx variables, or with
//! names the format tells: `json:status=http.response.code,host=vhost`.

pub(crate) mod form;
pub(crate) mod values;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use crate::logs::parse::{access, time};
use crate::logs::{AccessRecord, Attempt, Line, LineTime, Rejected};
use values::{Value, Values, any_time, owned_attempts, read_line};

/// What a format may name the key of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Field {
    Status,
    Host,
    Client,
    Upstream,
    ForwardedFor,
    Method,
    Path,
    Request,
    UpstreamStatus,
    UpstreamTime,
    RequestTime,
    UserAgent,
    Time,
}

/// Each with the name a format gives it, and its usual keys, the better ones first. Those of the
/// time also tell how it is written; where `time_local` is, no other one is asked.
const FIELDS: [(Field, &str, &[&str]); 13] = [
    (Field::Status, "status", &["status", "status_code", "response_code"]),
    (Field::Host, "host", &["host", "http_host", "vhost", "server_name", "domain"]),
    (Field::Client, "client", &["remote_addr", "client_ip", "client", "remote_ip"]),
    (Field::Upstream, "upstream", &["upstream_addr", "upstream"]),
    (Field::ForwardedFor, "forwarded_for", &["http_x_forwarded_for", "x_forwarded_for"]),
    (Field::Method, "method", &["request_method", "method"]),
    (Field::Path, "path", &["request_uri", "uri", "path", "url"]),
    (Field::Request, "request", &["request", "request_line"]),
    (Field::UpstreamStatus, "upstream_status", &["upstream_status"]),
    (Field::UpstreamTime, "upstream_time", &["upstream_response_time"]),
    (Field::RequestTime, "request_time", &["request_time", "duration"]),
    (Field::UserAgent, "user_agent", &["http_user_agent", "user_agent"]),
    (
        Field::Time,
        "time",
        &["time_local", "time_iso8601", "@timestamp", "timestamp", "time", "msec", "ts"],
    ),
];
/// Places of the usual keys of the time that each way of writing it may stand under.
const LOCAL: usize = 0;
const ISO: [usize; 4] = [1, 2, 3, 4];
const CLF: [usize; 2] = [4, 3];
const EPOCH: [usize; 3] = [5, 6, 4];

/// Keys that other formats of JSON have, whose lines are not for this one.
const FOREIGN: [&str; 4] = ["logger", ":authority", "response_flags", "x-envoy-origin-path"];

/// The keys of one format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Keys {
    paths: Vec<Cow<'static, str>>,
    /// Places of the paths of each field, the better ones first.
    of: [Vec<usize>; FIELDS.len()],
    /// The key of the time is told, how it is written is not.
    is_time_told: bool,
}

static USUAL: LazyLock<Arc<Keys>> = LazyLock::new(|| Arc::new(Keys::with(&[])));

impl Keys {
    pub(crate) fn usual() -> Arc<Self> {
        Arc::clone(&USUAL)
    }

    /// The keys that the text after `json:` names; the other fields have their usual ones.
    ///
    /// `Err` says which name is wrong, and which there are.
    pub(crate) fn compile(text: &str) -> Result<Arc<Self>, String> {
        let mut told: Vec<(Field, &str)> = Vec::new();
        for pair in text.split(',').map(str::trim) {
            let (name, path) =
                pair.split_once('=').map(|(name, path)| (name.trim(), path.trim())).ok_or_else(
                    || format!("{pair:?} is no NAME=KEY: write json:status=code,time=ts"),
                )?;
            let field = FIELDS.iter().find(|(_, known, _)| *known == name);
            let Some((field, ..)) = field else {
                let names: Vec<&str> = FIELDS.iter().map(|(_, name, _)| *name).collect();
                return Err(format!("{name:?} is no field: write one of {}", names.join(", ")));
            };
            if path.is_empty() || path.split('.').any(str::is_empty) {
                return Err(format!("{name} has no key: write {name}=KEY or {name}=OUTER.KEY"));
            }
            if told.iter().any(|(known, _)| known == field) {
                return Err(format!("{name} is named twice: write it once"));
            }
            told.push((*field, path));
        }
        Ok(Arc::new(Self::with(&told)))
    }

    fn with(told: &[(Field, &str)]) -> Self {
        let mut paths: Vec<Cow<'static, str>> = FOREIGN.map(Cow::Borrowed).to_vec();
        let mut of = std::array::from_fn(|_| Vec::new());
        for (field, _, usual) in &FIELDS {
            let told = told.iter().find(|(known, _)| known == field);
            let of: &mut Vec<usize> = &mut of[*field as usize];
            let keys: Vec<Cow<'static, str>> = match told {
                Some((_, path)) => vec![Cow::Owned((*path).to_owned())],
                None => usual.iter().map(|key| Cow::Borrowed(*key)).collect(),
            };
            for key in keys {
                let known = paths.iter().position(|path| *path == key);
                of.push(known.unwrap_or(paths.len()));
                if known.is_none() {
                    paths.push(key);
                }
            }
        }
        let is_time_told = told.iter().any(|(field, _)| *field == Field::Time);
        Self { paths, of, is_time_told }
    }

    /// Paths of a field, the better ones first.
    fn paths_of(&self, field: Field) -> impl Iterator<Item = &str> {
        self.of[field as usize].iter().filter_map(|at| self.paths.get(*at)).map(AsRef::as_ref)
    }

    /// Places of the paths that a way of writing the time may stand under.
    fn times<const N: usize>(&self, of: [usize; N]) -> impl Iterator<Item = usize> {
        let time = &self.of[Field::Time as usize];
        of.into_iter().filter_map(|at| time.get(at).copied())
    }
}

/// One line.
pub(crate) fn parse<'l>(keys: &Keys, line: &'l [u8]) -> Line<'l> {
    read_line(&keys.paths, line.trim_ascii(), |values| {
        record(keys, values).map_or_else(Line::Rejected, Line::Access)
    })
}

/// The value of the first of a field's keys that says something.
fn first<'l>(keys: &Keys, values: &Values<'l>, field: Field) -> Option<Cow<'l, str>> {
    keys.of[field as usize].iter().find_map(|at| values.text(*at))
}

fn is_foreign(values: &Values<'_>) -> bool {
    // Of the loggers, only Caddy's for requests.
    values.str(0).starts_with("http.log.") || (1..FOREIGN.len()).any(|at| values.has(at))
}

/// The status; two keys that disagree may be one of the server's and one of the client's words.
fn status(keys: &Keys, values: &Values<'_>) -> Result<u16, Rejected> {
    let mut found = None;
    for at in &keys.of[Field::Status as usize] {
        if values.text(*at).is_none() {
            continue;
        }
        let status = values.status(*at).ok_or(Rejected::BadStatus)?;
        if found.is_some_and(|known| known != status) {
            return Err(Rejected::Malformed);
        }
        found = Some(status);
    }
    found.ok_or(Rejected::Malformed)
}

fn record<'l>(keys: &Keys, values: &Values<'l>) -> Result<AccessRecord<'l>, Rejected> {
    if is_foreign(values) {
        return Err(Rejected::Malformed);
    }
    let status = status(keys, values)?;
    let get = |field| first(keys, values, field);
    let (method, target) = get(Field::Request).and_then(request_line).unzip();
    let number = |field: Field| {
        let places = &keys.of[field as usize];
        places.iter().find(|at| values.text(**at).is_some()).and_then(|at| values.number(*at))
    };
    let has_upstream = keys.of[Field::Upstream as usize].iter().any(|at| values.has(*at));
    let no_upstream = keys.of[Field::Upstream as usize]
        .first()
        .is_some_and(|at| matches!(values.get(*at), Value::Text(text) if text == "-"));
    Ok(AccessRecord {
        time: record_time(keys, values),
        host: get(Field::Host),
        client: get(Field::Client),
        forwarded_for: get(Field::ForwardedFor).and_then(said_list),
        method: get(Field::Method).or(method),
        path: get(Field::Path).or(target),
        status: Some(status),
        attempts: attempts(
            get(Field::Upstream).or_else(|| has_upstream.then(|| "".into())),
            get(Field::UpstreamStatus).as_deref(),
            get(Field::UpstreamTime).as_deref(),
        ),
        no_upstream,
        request_time: number(Field::RequestTime),
        user_agent: get(Field::UserAgent),
        ..AccessRecord::default()
    })
}

fn record_time(keys: &Keys, values: &Values<'_>) -> Option<LineTime> {
    if keys.is_time_told {
        return keys.times([0]).find_map(|at| values.time(at, any_time));
    }
    let local = keys.times([LOCAL]).next().unwrap_or_default();
    if values.has(local) {
        return values.time(local, time::clf);
    }
    let iso = || keys.times(ISO).find_map(|at| values.time(at, time::iso8601));
    let told = |at: &usize| values.text(*at).is_some();
    let clf = || keys.times(CLF).find(told).and_then(|at| values.time(at, time::clf));
    let epoch = || keys.times(EPOCH).find(told).and_then(|at| values.time(at, time::epoch_seconds));
    iso().or_else(clf).or_else(epoch)
}

/// Method and target of `METHOD target HTTP/x`.
pub(crate) fn request_line(request: Cow<'_, str>) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let own = |text: Cow<'_, str>| text.into_owned();
    match request {
        Cow::Borrowed(line) => access::request_line(line.as_bytes()),
        Cow::Owned(line) => access::request_line(line.as_bytes())
            .map(|(method, target)| (own(method).into(), own(target).into())),
    }
}

/// A list of addresses that says something.
pub(crate) fn said_list(list: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let text: Cow<'_, str> = match list {
        Cow::Borrowed(list) => list.trim().into(),
        Cow::Owned(list) => list.trim().to_owned().into(),
    };
    (!text.is_empty() && text != "-").then_some(text)
}

/// The first address of a list.
pub(crate) fn first_of_list(list: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let first = |list: &str| list.split(',').next().map_or(0, str::len);
    let text: Cow<'_, str> = match list {
        Cow::Borrowed(list) => list[..first(list)].trim().into(),
        Cow::Owned(list) => list[..first(&list)].trim().to_owned().into(),
    };
    (!text.is_empty() && text != "-").then_some(text)
}

/// The attempts of lists as nginx writes them.
fn attempts<'l>(
    addresses: Option<Cow<'l, str>>,
    statuses: Option<&str>,
    times: Option<&str>,
) -> Vec<Attempt<'l>> {
    let (statuses, times) = (statuses.map(str::as_bytes), times.map(str::as_bytes));
    match addresses {
        None => access::attempts(None, statuses, times),
        Some(Cow::Borrowed(list)) => access::attempts(Some(list.as_bytes()), statuses, times),
        Some(Cow::Owned(list)) => {
            owned_attempts(access::attempts(Some(list.as_bytes()), statuses, times))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_be_told() {
        let keys = "status=http.response.code, host=vhost,time=ts,client=peer.0,request=line,\
                    upstream=up.addr,upstream_status=up.status,upstream_time=up.time,\
                    user_agent=req.headers.UA,forwarded_for=xff,request_time=took";
        let keys = Keys::compile(keys).unwrap();
        let line = r#"{"ts":1795176067042,"vhost":"a.example","host":"other","http":{"response":{"code":"502"}},
            "line":"GET /a?b HTTP/1.1","up":{"addr":"10.0.0.1:80, 10.0.0.2:80","status":"504, 502","time":"1.0, 0.5"},
            "req":{"headers":{"UA":["curl"]}},"xff":"203.0.113.7, 10.0.0.9","took":1.5,"status":200}"#;
        let Line::Access(r) = parse(&keys, line.as_bytes()) else { panic!("a request") };
        assert_eq!((r.status, r.host.as_deref()), (Some(502), Some("a.example")));
        assert_eq!(r.time, time::epoch_seconds(b"1795176067.042"));
        assert_eq!((r.method.as_deref(), r.path.as_deref()), (Some("GET"), Some("/a?b")));
        let attempts: Vec<_> =
            r.attempts.iter().map(|a| (&*a.upstream, a.status, a.time)).collect();
        let want = [("10.0.0.1:80", Some(504), Some(1.0)), ("10.0.0.2:80", Some(502), Some(0.5))];
        assert_eq!(attempts, want);
        assert_eq!(r.user_agent.as_deref(), Some("curl"));
        assert_eq!(r.forwarded_for.as_deref(), Some("203.0.113.7, 10.0.0.9"));
        assert_eq!(r.forwarded_first(), Some("203.0.113.7"));
        assert_eq!(r.request_time, Some(1.5));
    }

    #[test]
    fn a_wrong_name_is_told_with_those_there_are() {
        for (text, want) in [
            ("status=code", ""),
            ("status=a.b.c,path=p", ""),
            ("stauts=code", "\"stauts\" is no field: write one of status, host,"),
            ("status", "\"status\" is no NAME=KEY"),
            ("", "\"\" is no NAME=KEY"),
            ("status=", "status has no key"),
            ("status=a..b", "status has no key"),
            ("status=a,status=b", "status is named twice"),
        ] {
            let got = Keys::compile(text).err().unwrap_or_default();
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{text}: {got}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_overrides_nothing() {
        for (line, want) in [
            (r#"{"status":200,"ua":"x"}"#, Some(200)),
            (r#"{"status":200,"ua":"x","status":502}"#, None),
            (r#"{"status":502,"status":"200"}"#, None),
            (r#"{"status":200,"response_code":502}"#, None),
            (r#"{"status":200,"host":"a.example","host":"b.example"}"#, None),
            (r#"{"status":200,"status_code":"200"}"#, Some(200)),
            (r#"{"status":200,"n":{"status":502}}"#, Some(200)),
            (r#"{"status":200.0}"#, None),
            (r#"{"status":[502]}"#, Some(502)),
        ] {
            let got = match parse(&Keys::usual(), line.as_bytes()) {
                Line::Access(record) => record.status,
                _ => None,
            };
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn lines_of_other_loggers_are_left_to_their_formats() {
        for line in [
            r#"{"logger":"http.log.access","status":502}"#,
            r#"{"status":502,":authority":"a.example"}"#,
            r#"{"response_code":502,"response_flags":"UF"}"#,
        ] {
            let got = parse(&Keys::usual(), line.as_bytes());
            assert_eq!(got, Line::Rejected(Rejected::Malformed), "{line}");
        }
    }

    #[test]
    fn text_that_is_nearly_json_is_read() {
        let line = br#"{"status":"502","host":"a.example","ua":"say \x22hi\x22 \xff","bad":"x"}"#;
        let Line::Access(r) = parse(&Keys::usual(), line) else { panic!("a request") };
        assert_eq!((r.status, r.host.as_deref()), (Some(502), Some("a.example")));
        let line = b"{\"status\":502,\"user_agent\":\"\xff\"}";
        assert!(matches!(parse(&Keys::usual(), line), Line::Access(_)), "bytes that are no UTF-8");
    }
}
