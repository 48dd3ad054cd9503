//! Stored records as lines of the stream format: what `replay` reads back. Pure but for the caller's
//! buffer.
//!
//! Fields the format does not have are written where a replay would differ without them: `signal`
//! where the text does not say it, `attribute` of a sample, `reason` of a service, `n_crawler`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use wire::UnixMillis;
use wire::said;
use wire::v1::Signal;

use crate::detect::past::Past;
use crate::model::{Baseline, Exemplar, Record, SiteId};
use crate::store::history::Hole;

/// Writes the lines of one server, all with one arrival time.
pub struct Writer<'a> {
    /// Name of the server.
    pub server: &'a str,
    /// When the records arrived.
    pub arrived_at: UnixMillis,
    /// What the server's clock showed then.
    pub clock: UnixMillis,
    /// Name of a site.
    pub name_of: &'a dyn Fn(SiteId) -> Option<String>,
}

/// First line of a stream. It promises that [`end`] is the last one.
pub fn header(out: &mut Vec<u8>, label_names: &[String], from: UnixMillis, to: UnixMillis) {
    let header = json!({
        "version": 1, "label_names": label_names, "from": from.0, "to": to.0, "ends": true,
    });
    typed(out, "header", &header);
}

/// Last line of a stream: one that breaks off lacks it. It says of which times history is missing,
/// and up to when arrivals are not those that were.
pub fn end(out: &mut Vec<u8>, holes: &[Hole], packed_to: Option<UnixMillis>) {
    let hole = |hole: &Hole| {
        json!({
            "from": hole.from.0, "to": hole.to.0, "server": hole.server, "why": hole.why,
        })
    };
    let holes: Vec<Value> = holes.iter().map(hole).collect();
    let mut end = Map::new();
    if !holes.is_empty() {
        end.insert("holes".to_owned(), json!(holes));
    }
    if let Some(to) = packed_to {
        end.insert("packed_to".to_owned(), json!(to.0));
    }
    typed(out, "end", &Value::Object(end));
}

/// A server of the fleet, with what its clock shows at the start of the stream, where that is known.
pub fn server(
    out: &mut Vec<u8>,
    name: &str,
    labels: &BTreeMap<String, String>,
    n_cpu: u32,
    heartbeat_ms: u64,
) {
    let server = json!({
        "server": name, "labels": labels, "n_cpu": n_cpu, "heartbeat_ms": heartbeat_ms,
    });
    typed(out, "server", &server);
}

/// What a server's clock shows when the collector's shows `arrived_at`: a heartbeat that promises
/// nothing of what was sent.
pub fn clock(out: &mut Vec<u8>, server: &str, clock: UnixMillis, arrived_at: UnixMillis) {
    let heartbeat = json!({
        "at": 0, "arrived_at": arrived_at.0, "server": server, "clock": clock.0,
    });
    typed(out, "heartbeat", &heartbeat);
}

/// A site of the fleet.
pub fn site(
    out: &mut Vec<u8>,
    server: &str,
    site: &str,
    pool: Option<&str>,
    upstream: Option<&str>,
    baseline: Option<Baseline>,
) {
    let mut record = json!({ "server": server, "site": site, "pool": pool, "upstream": upstream });
    if let Some(baseline) = baseline {
        record["baseline"] = json!(baseline);
    }
    typed(out, "site", &record);
}

/// The past of a site before the day of `from`, as `Past` is saved; `None` when there is none.
#[must_use]
pub fn baseline(saved: &[u8], from: UnixMillis) -> Option<Baseline> {
    serde_json::from_slice::<Past>(saved).ok()?.before(from.second())
}

/// `Requests` as a line: nearly all are such, so it is not built as a `Value` first.
#[derive(Serialize)]
struct Requests<'a> {
    r#type: &'static str,
    at: i64,
    arrived_at: i64,
    server: &'a str,
    site: &'a str,
    n: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_502: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_503: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_504: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_5xx_app: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_499: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_retried: u32,
    #[serde(skip_serializing_if = "is_zero")]
    n_crawler: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Writer<'_> {
    /// Appends the lines of one record; none for a site that has no name any more.
    pub fn record(&self, out: &mut Vec<u8>, record: &Record) {
        match record {
            Record::Server { .. } => {}
            Record::Site { site: id, pool, upstream, .. } => {
                let Some(name) = (self.name_of)(*id) else { return };
                site(out, self.server, &name, pool.as_deref(), upstream.as_deref(), None);
            }
            Record::Requests { site, at, counts } => {
                let Some(name) = (self.name_of)(*site) else { return };
                line(
                    out,
                    &Requests {
                        r#type: "requests",
                        at: at.0,
                        arrived_at: self.arrived_at.0,
                        server: self.server,
                        site: &name,
                        n: counts.n,
                        n_502: counts.n_502,
                        n_503: counts.n_503,
                        n_504: counts.n_504,
                        n_5xx_app: counts.n_5xx_app,
                        n_499: counts.n_499,
                        n_retried: counts.n_retried,
                        n_crawler: counts.n_crawler,
                    },
                );
            }
            Record::Exemplar(exemplar) => self.exemplar(out, exemplar),
            Record::Sample { at, values, .. } => self.samples(out, *at, values),
            _ => {
                if let Some((kind, fields)) = self.context(record) {
                    typed(out, kind, &Value::Object(fields));
                }
            }
        }
    }

    fn fields(&self, at: UnixMillis) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("at".to_owned(), at.0.into());
        fields.insert("arrived_at".to_owned(), self.arrived_at.0.into());
        fields.insert("server".to_owned(), self.server.into());
        fields
    }

    fn exemplar(&self, out: &mut Vec<u8>, exemplar: &Exemplar) {
        let Some(site) = (self.name_of)(exemplar.site) else { return };
        let mut fields = self.fields(exemplar.at);
        let hash = |n: u64| (n != 0).then(|| format!("{n:016x}"));
        let more = json!({
            "site": site, "pool": exemplar.pool, "status": exemplar.status,
            "client": hash(exemplar.client), "path": hash(exemplar.path),
            "upstream": exemplar.upstream, "message": exemplar.message,
        });
        extend(&mut fields, more);
        let said = exemplar.message.as_deref().and_then(said::of_error_log);
        put_signal(&mut fields, exemplar.signal, said);
        typed(out, "exemplar", &Value::Object(fields));
    }

    /// One line for each attribute: values of one line have their metric's name alone.
    fn samples(&self, out: &mut Vec<u8>, at: UnixMillis, values: &[(&'static str, String, f64)]) {
        let mut by_attribute: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for (metric, attribute, value) in values {
            let values = by_attribute.entry(attribute).or_default();
            values.insert((*metric).to_owned(), (*value).into());
        }
        for (attribute, values) in by_attribute {
            let mut fields = self.fields(at);
            if !attribute.is_empty() {
                fields.insert("attribute".to_owned(), attribute.into());
            }
            fields.insert("values".to_owned(), Value::Object(values));
            typed(out, "sample", &Value::Object(fields));
        }
    }

    fn context(&self, record: &Record) -> Option<(&'static str, Map<String, Value>)> {
        let (kind, at, more) = match record {
            Record::Service { at, unit, state, pool, reason, .. } => (
                "service",
                at,
                json!({ "unit": unit, "state": state, "pool": pool, "reason": reason }),
            ),
            Record::Log { at, source, message, signal, pool, .. } => {
                let said = said::of_line(source, message);
                let pool = pool.as_deref().filter(|pool| said.pool != Some(pool));
                let mut more = Map::new();
                extend(&mut more, json!({ "source": source, "message": message, "pool": pool }));
                put_signal(&mut more, *signal, said.signal);
                ("log", at, Value::Object(more))
            }
            Record::Change { at, kind, what, site, pool, .. } => {
                ("change", at, json!({ "kind": kind, "what": what, "site": site, "pool": pool }))
            }
            Record::Heartbeat { at, clock, .. } => ("heartbeat", at, json!({ "clock": clock.0 })),
            Record::Complete { at, .. } => ("heartbeat", at, json!({ "clock": self.clock.0 })),
            Record::Goodbye { at, .. } => ("goodbye", at, json!({})),
            Record::Hello { at, .. } => ("hello", at, json!({})),
            Record::Collector { at, event } => ("collector", at, json!({ "event": event })),
            _ => return None,
        };
        let mut fields = self.fields(*at);
        if kind == "collector" {
            fields.remove("server");
        }
        extend(&mut fields, more);
        Some((kind, fields))
    }
}

/// Adds fields; null says no more than their absence.
fn extend(fields: &mut Map<String, Value>, more: Value) {
    let Value::Object(more) = more else { return };
    fields.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
}

/// Says the signal where the text does not say it.
fn put_signal(fields: &mut Map<String, Value>, signal: Option<Signal>, said: Option<Signal>) {
    if signal != said {
        let name = signal.and_then(Signal::name).unwrap_or_default();
        fields.insert("signal".to_owned(), name.into());
    }
}

/// Writes a line whose type stands first: it is what a reader has to know to read on.
fn typed(out: &mut Vec<u8>, kind: &str, fields: &Value) {
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    for (name, value) in fields.as_object().into_iter().flatten() {
        out.extend_from_slice(br#",""#);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(br#"":"#);
        serde_json::to_writer(&mut *out, value).expect("memory can be written to");
    }
    out.extend_from_slice(b"}\n");
}

fn line(out: &mut Vec<u8>, record: &impl Serialize) {
    serde_json::to_writer(&mut *out, record).expect("memory can be written to");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CollectorEvent, Counts, ServerId};
    use crate::replay::line;

    const SERVER: ServerId = ServerId(1);
    const SITE: SiteId = SiteId(0);

    /// The lines of a record.
    fn lines(record: &Record) -> String {
        let name_of = |site: SiteId| (site == SITE).then(|| "a.example".to_owned());
        let at = UnixMillis;
        let writer = Writer { server: "web-1", arrived_at: at(9), clock: at(8), name_of: &name_of };
        let mut out = Vec::new();
        writer.record(&mut out, record);
        String::from_utf8(out).unwrap()
    }

    fn exemplar(message: Option<&str>, signal: Option<Signal>) -> Record {
        Record::Exemplar(Exemplar {
            site: SITE,
            at: UnixMillis(5),
            status: 502,
            pool: Some("www".into()),
            client: 255,
            path: 0,
            upstream: None,
            message: message.map(str::to_owned),
            signal,
        })
    }

    #[test]
    fn every_record_has_its_line_and_the_reader_knows_each_field() {
        let at = UnixMillis(5);
        let counts = Counts { n: 7, n_502: 2, n_crawler: 1, ..Counts::default() };
        let samples = vec![
            ("system.cpu.steal", String::new(), 0.25),
            ("system.filesystem.utilization", "/".to_owned(), 0.5),
        ];
        let refused = "connect() failed (111: Connection refused) while connecting to upstream";
        let full = "[pool www] server reached pm.max_children setting (5), consider raising it";
        let log = |signal, pool: Option<&str>| Record::Log {
            server: SERVER,
            at,
            source: "php_fpm".into(),
            message: full.into(),
            signal,
            pool: pool.map(str::to_owned),
        };
        let ending = r#""at":5,"server":"web-1""#;
        for (record, want) in [
            (
                Record::Requests { site: SITE, at, counts },
                r#"{"type":"requests","at":5,"arrived_at":9,"server":"web-1","site":"a.example","n":7,"n_502":2,"n_crawler":1}"#.to_owned(),
            ),
            (Record::Requests { site: SiteId(1), at, counts }, String::new()),
            (
                exemplar(Some(refused), Some(Signal::ConnectRefused)),
                format!(r#"{{"type":"exemplar","arrived_at":9,"at":5,"client":"00000000000000ff","message":"{refused}","pool":"www","server":"web-1","site":"a.example","status":502}}"#),
            ),
            (
                exemplar(None, Some(Signal::Reset)),
                r#"{"type":"exemplar","arrived_at":9,"at":5,"client":"00000000000000ff","pool":"www","server":"web-1","signal":"reset","site":"a.example","status":502}"#.to_owned(),
            ),
            (
                exemplar(Some(""), None),
                r#"{"type":"exemplar","arrived_at":9,"at":5,"client":"00000000000000ff","message":"","pool":"www","server":"web-1","site":"a.example","status":502}"#.to_owned(),
            ),
            (
                Record::Sample { server: SERVER, at, values: samples },
                format!(
                    "{}\n{}",
                    format_args!(r#"{{"type":"sample","arrived_at":9,{ending},"values":{{"system.cpu.steal":0.25}}}}"#),
                    r#"{"type":"sample","arrived_at":9,"at":5,"attribute":"/","server":"web-1","values":{"system.filesystem.utilization":0.5}}"#,
                ),
            ),
            (
                log(Some(Signal::MaxChildren), Some("www")),
                format!(r#"{{"type":"log","arrived_at":9,"at":5,"message":"{full}","server":"web-1","source":"php_fpm"}}"#),
            ),
            (
                log(None, Some("shop")),
                format!(r#"{{"type":"log","arrived_at":9,"at":5,"message":"{full}","pool":"shop","server":"web-1","signal":"","source":"php_fpm"}}"#),
            ),
            (
                Record::Complete { server: SERVER, at },
                r#"{"type":"heartbeat","arrived_at":9,"at":5,"clock":8,"server":"web-1"}"#.to_owned(),
            ),
            (
                Record::Collector { at, event: CollectorEvent::DiskFull },
                r#"{"type":"collector","arrived_at":9,"at":5,"event":"disk_full"}"#.to_owned(),
            ),
        ] {
            let lines = lines(&record);
            assert_eq!(lines.trim_end(), want, "{record:?}");
            for line in lines.lines() {
                assert_eq!(line::decode(line.as_bytes()).unwrap().n_unknown, 0, "{line}");
            }
        }
    }

    #[test]
    fn the_fleet_comes_first_and_the_end_last() {
        let mut out = Vec::new();
        header(&mut out, &["rack".to_owned()], UnixMillis(1), UnixMillis(2));
        server(&mut out, "web-1", &[("rack".to_owned(), "r1".to_owned())].into(), 4, 5000);
        let past = Baseline { days: 2.0, n_requests: 9, n_gateway_errors: 1 };
        site(&mut out, "web-1", "a.example", Some("www"), None, Some(past));
        end(&mut out, &[], None);
        let hole = Hole {
            from: UnixMillis(1),
            to: UnixMillis(2),
            server: Some("web-1".to_owned()),
            why: "damaged".to_owned(),
        };
        end(&mut out, &[hole], Some(UnixMillis(3)));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                r#"{"type":"header","ends":true,"from":1,"label_names":["rack"],"to":2,"version":1}"#,
                r#"{"type":"server","heartbeat_ms":5000,"labels":{"rack":"r1"},"n_cpu":4,"server":"web-1"}"#,
                r#"{"type":"site","baseline":{"days":2.0,"n_gateway_errors":1,"n_requests":9},"pool":"www","server":"web-1","site":"a.example","upstream":null}"#,
                r#"{"type":"end"}"#,
                r#"{"type":"end","holes":[{"from":1,"server":"web-1","to":2,"why":"damaged"}],"packed_to":3}"#,
            ]
        );
        for line in text.lines() {
            assert_eq!(line::decode(line.as_bytes()).unwrap().n_unknown, 0, "{line}");
        }
    }
}
