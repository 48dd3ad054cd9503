//! Stands in for a chat, pager or alert service on loopback: takes what the service takes, refuses what
//! it refuses (its published schema, a wrong key), and answers as it answers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::root::Root;
use crate::schema::Schema;

/// Keys and paths of the services; each is known by the stand-in alone.
const SIGNING_KEY: &str = "correct horse battery staple";
const BOT: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";
const NTFY_TOKEN: &str = "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2";
const ROUTING_KEY: &str = "e93facc04764012d7bfb002500d5d1a6";
const GENIE_KEY: &str = "eb243592-faa2-4ba2-a551-1afdf565c889";
const LOGIN: &str = "gatewatch:pa55word";
const CHAT: &str = "-1001234567890";
const TOPIC: &str = "outages";

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method, path and query.
    pub target: String,
    /// The message; the fields of a form as an object.
    pub body: Value,
    /// The pictures that came with it: file name and bytes of each.
    pub pictures: Vec<(String, usize)>,
    /// The status it was answered with.
    pub answered: u16,
    /// Why it was refused.
    pub problems: Vec<String>,
}

/// An alert as a pager knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PagerAlert {
    /// Priority or severity.
    pub priority: String,
    /// Its title.
    pub title: String,
    /// Notes written to it.
    pub n_notes: usize,
    /// Whether it still rings.
    pub is_open: bool,
}

/// Alerts by alias.
type Alerts = BTreeMap<String, PagerAlert>;

/// The service; stops in `Drop`.
#[derive(Debug)]
pub struct StandIn {
    kind: String,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<Request>>>,
    alerts: Arc<Mutex<Alerts>>,
    files: Root,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Kinds there are stand-ins for.
    pub const KINDS: [&str; 9] = [
        "webhook",
        "alertmanager",
        "slack",
        "teams",
        "discord",
        "telegram",
        "ntfy",
        "pagerduty",
        "opsgenie",
    ];

    /// Listens on loopback as the service of this kind.
    #[must_use]
    pub fn start(kind: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let got = Arc::new(Mutex::new(Vec::new()));
        let alerts = Arc::<Mutex<Alerts>>::default();
        let thread = {
            let (stop, got) = (Arc::clone(&stop), Arc::clone(&got));
            let (kind, schema, alerts) = (kind.to_owned(), Schema::of(kind), Arc::clone(&alerts));
            let service = Service { kind, schema, alerts };
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    stream.ok().and_then(|stream| service.serve(stream, &got));
                }
            })
        };
        let (kind, files) = (kind.to_owned(), Root::new());
        Self { kind, address, stop, got, alerts, files, thread: Some(thread) }
    }

    /// What `collector.toml` says so that it hears of everything.
    #[must_use]
    pub fn toml(&self) -> String {
        let base = format!("http://{}", self.address);
        let quoted = |path: std::path::PathBuf| format!("{:?}", path.display().to_string());
        let secret = |text: &str| quoted(self.files.secret("key", text));
        let kind = &self.kind;
        let mut lines =
            format!("[[notify]]\nkind = {kind:?}\nname = {kind:?}\nmin_severity = \"info\"\n");
        let (url, key) = match self.kind.as_str() {
            "webhook" => (format!("{base}/hook"), SIGNING_KEY),
            "alertmanager" => (base, LOGIN),
            "telegram" => (base, BOT),
            "ntfy" => (base, NTFY_TOKEN),
            "pagerduty" => (base, ROUTING_KEY),
            "opsgenie" => (base, GENIE_KEY),
            other => {
                let path = secret_path(other);
                let file = quoted(self.files.secret("url", &format!("{base}{path}")));
                return format!("{lines}url_file = {file}\n");
            }
        };
        lines = format!("{lines}url = {url:?}\nsecret_file = {}\n", secret(key));
        match self.kind.as_str() {
            "telegram" => format!("{lines}chat_id = {CHAT:?}\n"),
            "ntfy" => format!("{lines}topic = {TOPIC:?}\n"),
            _ => lines,
        }
    }

    /// Everything that nobody may read in a log: keys, and the URLs that are keys.
    #[must_use]
    pub fn secrets() -> Vec<&'static str> {
        let paths = ["slack", "teams", "discord"].map(secret_path);
        let keys = [SIGNING_KEY, BOT, NTFY_TOKEN, ROUTING_KEY, GENIE_KEY, "pa55word"];
        keys.into_iter().chain(paths).collect()
    }

    /// Everything that came, refused ones too, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl StandIn {
    /// The alerts of a pager, by alias.
    #[must_use]
    pub fn alerts(&self) -> BTreeMap<String, PagerAlert> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address)); // wakes accept()
        if let Some(thread) = self.thread.take() {
            thread.join().ok(); // a panic in it has been printed already
        }
    }
}

/// Path and query of the URLs that are secrets.
fn secret_path(kind: &str) -> &'static str {
    match kind {
        "slack" => "/services/T0000AAAA/B0000BBBB/qf3mZ8yLw0s2hJtR7uPk5xVn",
        "teams" => "/workflows/8f2ac0de/triggers/manual/paths/invoke?sp=run&sig=Zm9vYmFyYmF6",
        "discord" => "/api/webhooks/223704706495545344/3d89bb7572e0fb30d8128367b3b1b44f",
        other => panic!("the URL of {other} is no secret"),
    }
}

struct Service {
    kind: String,
    schema: Schema,
    alerts: Arc<Mutex<Alerts>>,
}

/// A request before it is judged.
struct Raw {
    target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Service {
    /// Keeps what came before it answers: who has the answer finds it.
    fn serve(&self, stream: TcpStream, got: &Mutex<Vec<Request>>) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let mut reader = BufReader::new(stream);
        let raw = read(&mut reader)?;
        let (body, pictures) = message(&raw);
        let (answered, said, problems) = self.judge(&raw, &body, &pictures);
        let length = said.len();
        let answer = format!(
            "HTTP/1.1 {answered} Test\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{said}"
        );
        let request = Request { target: raw.target, body, pictures, answered, problems };
        got.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        reader.get_mut().write_all(answer.as_bytes()).ok()
    }

    /// Status, body of the answer, and why it is refused.
    fn judge(
        &self,
        raw: &Raw,
        body: &Value,
        pictures: &[(String, usize)],
    ) -> (u16, String, Vec<String>) {
        let has_picture = !pictures.is_empty();
        if let Some(refusal) = self.wrong_address(raw, body, has_picture) {
            return refusal;
        }
        let mut problems = self.schema.problems(body);
        if self.kind == "opsgenie" {
            problems.extend(wrong_verb(&raw.target, body));
        }
        for name in attachments(body) {
            if !pictures.iter().any(|(attached, n_bytes)| *attached == name && *n_bytes > 0) {
                problems.push(format!("no file {name:?} is attached"));
            }
        }
        let content = raw.headers.get("content-type").map(String::as_str).unwrap_or_default();
        let wanted = if has_picture { "multipart/form-data; " } else { "application/json" };
        if !content.starts_with(wanted) {
            problems.push(format!("content type {content:?}"));
        }
        if !problems.is_empty() {
            let said = match self.kind.as_str() {
                "slack" => "invalid_blocks".to_owned(),
                "telegram" => json!({"ok": false, "error_code": 400, "description":
                    format!("Bad Request: {}", problems[0])})
                .to_string(),
                _ => json!({"message": problems}).to_string(),
            };
            return (400, said, problems);
        }
        if let Err(what) = self.keep(raw, body) {
            let said = json!({"message": what, "took": 0.004}).to_string();
            return (404, said, vec![format!("{what}: {}", raw.target)]);
        }
        let (status, said) = match self.kind.as_str() {
            "slack" => (200, "ok".to_owned()),
            "teams" => (202, String::new()),
            "discord" => (204, String::new()),
            "telegram" => (200, json!({"ok": true, "result": {"message_id": 1}}).to_string()),
            "ntfy" => (200, json!({"id": "hwQ2YpKdmg", "event": "message"}).to_string()),
            "pagerduty" => {
                let key = body["dedup_key"].clone();
                let said =
                    json!({"status": "success", "message": "Event processed", "dedup_key": key});
                (202, said.to_string())
            }
            "opsgenie" => {
                let said = json!({"result": "Request will be processed", "took": 0.107,
                    "requestId": "43a29c5c-3dbf-4fa4-9c26-f4f71023e120"});
                (202, said.to_string())
            }
            _ => (200, String::new()),
        };
        (status, said, problems)
    }

    /// Keeps the alerts of pagers; what is about an alert that is not there is refused.
    fn keep(&self, raw: &Raw, body: &Value) -> Result<(), String> {
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |pointer: &str| {
            body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if self.kind == "pagerduty" {
            let alert = alerts.entry(text("/dedup_key")).or_default();
            alert.is_open = text("/event_action") == "trigger";
            if alert.is_open {
                (alert.priority, alert.title) =
                    (text("/payload/severity"), text("/payload/summary"));
            }
            return Ok(());
        }
        if self.kind != "opsgenie" {
            return Ok(());
        }
        let Some((alias, verb)) = alias_and_verb(&raw.target) else {
            let alert = alerts.entry(text("/alias")).or_default();
            if !alert.is_open {
                // One that is open is counted, and stays as it is.
                let (priority, title) = (text("/priority"), text("/message"));
                *alert = PagerAlert { priority, title, n_notes: 0, is_open: true };
            }
            return Ok(());
        };
        let alert = alerts.get_mut(alias).ok_or("Alert does not exist")?;
        match verb {
            "close" => alert.is_open = false,
            "notes" => alert.n_notes += 1,
            "priority" => alert.priority = text("/priority"),
            _ => alert.title = text("/message"),
        }
        Ok(())
    }

    /// What a service answers to a stranger; `None` when the key and the address are right.
    fn wrong_address(
        &self,
        raw: &Raw,
        body: &Value,
        has_picture: bool,
    ) -> Option<(u16, String, Vec<String>)> {
        let key = raw.headers.get("authorization").map(String::as_str).unwrap_or_default();
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let is_at = |path: &str| raw.target == format!("POST {path}");
        let (is_there, is_known) = match self.kind.as_str() {
            "webhook" => (is_at("/hook"), raw.headers.contains_key("x-gatewatch-signature")),
            "alertmanager" => (is_at("/api/v2/alerts"), key == "Basic Z2F0ZXdhdGNoOnBhNTV3b3Jk"),
            "telegram" => {
                let method = if has_picture { "sendPhoto" } else { "sendMessage" };
                (is_at(&format!("/bot{BOT}/{method}")), text("chat_id") == CHAT)
            }
            "ntfy" => (is_at("/"), key == format!("Bearer {NTFY_TOKEN}") && text("topic") == TOPIC),
            "pagerduty" => (is_at("/v2/enqueue"), text("routing_key") == ROUTING_KEY),
            "opsgenie" => {
                let is_there = is_at("/v2/alerts") || alias_and_verb(&raw.target).is_some();
                (is_there, key == format!("GenieKey {GENIE_KEY}"))
            }
            other => (is_at(secret_path(other)), true),
        };
        let refuse = |status: u16, what: &str| {
            let problem = format!("{what}: {}", raw.target);
            Some((status, json!({"message": what}).to_string(), vec![problem]))
        };
        match (is_there, is_known) {
            (false, _) => refuse(404, "there is nothing here"),
            // PagerDuty calls an unknown key a bad request.
            (_, false) if self.kind == "pagerduty" => refuse(400, "Invalid routing key"),
            (_, false) => refuse(401, "the key is wrong"),
            _ => None,
        }
    }
}

/// The alert that a request to Opsgenie is about, and what is to become of it.
fn alias_and_verb(target: &str) -> Option<(&str, &str)> {
    let (method, path) = target.split_once(" /v2/alerts/")?;
    let (alias, verb) = path.strip_suffix("?identifierType=alias")?.split_once('/')?;
    let verbs: &[&str] =
        if method == "PUT" { &["priority", "message"] } else { &["notes", "close"] };
    verbs.contains(&verb).then_some((alias, verb))
}

/// What is wrong with a body for where it goes at Opsgenie.
fn wrong_verb(target: &str, body: &Value) -> Option<String> {
    let wanted = match alias_and_verb(target) {
        None => "alias",
        Some((_, "notes" | "close")) => "note",
        Some((_, verb)) => verb,
    };
    body.get(wanted).is_none().then(|| format!("{target} without {wanted}"))
}

/// Names of the attached files that a message shows (Discord).
fn attachments(body: &Value) -> Vec<String> {
    let embeds = body["embeds"].as_array().into_iter().flatten();
    let urls = embeds.filter_map(|embed| embed["image"]["url"].as_str());
    urls.filter_map(|url| url.strip_prefix("attachment://")).map(str::to_owned).collect()
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Raw> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let target = format!("{} {}", words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => break,
        }
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Raw { target, headers, body })
}

/// The message in a request and its pictures: JSON, or a form.
fn message(raw: &Raw) -> (Value, Vec<(String, usize)>) {
    let content = raw.headers.get("content-type").map(String::as_str).unwrap_or_default();
    let Some(boundary) = content.strip_prefix("multipart/form-data; boundary=") else {
        return (serde_json::from_slice(&raw.body).unwrap_or(Value::Null), Vec::new());
    };
    let (mut fields, mut pictures) = (Map::new(), Vec::new());
    let mut rest = &raw.body[..];
    let end = format!("\r\n--{boundary}");
    let first = format!("--{boundary}\r\n");
    rest = rest.strip_prefix(first.as_bytes()).unwrap_or_default();
    while let Some(at) = find(rest, end.as_bytes()) {
        let part = &rest[..at];
        rest = rest[at + end.len()..].strip_prefix(b"\r\n").unwrap_or_default();
        let Some(blank) = find(part, b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&part[..blank]);
        let quoted = |key: &str| head.split(key).nth(1).and_then(|name| name.split('"').next());
        let name = quoted(" name=\"");
        let value = &part[blank + 4..];
        if let Some(file) = quoted("filename=\"") {
            pictures.push((file.to_owned(), value.len()));
        } else {
            let text = String::from_utf8_lossy(value).into_owned();
            fields.insert(name.unwrap_or_default().to_owned(), text.into());
        }
    }
    match fields.get("payload_json").and_then(Value::as_str) {
        Some(json) => (serde_json::from_str(json).unwrap_or(Value::Null), pictures),
        None => (Value::Object(fields), pictures),
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_fields_and_a_picture() {
        let body = "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--xx\r\n\
                    Content-Disposition: form-data; name=\"p\"; filename=\"c.png\"\r\n\
                    Content-Type: image/png\r\n\r\nPNG\r\n--xx--\r\n";
        let content = ("content-type".to_owned(), "multipart/form-data; boundary=xx".to_owned());
        let raw = Raw {
            target: "POST /".to_owned(),
            headers: BTreeMap::from([content]),
            body: body.into(),
        };
        assert_eq!(message(&raw), (json!({"a": "1"}), vec![("c.png".to_owned(), 3)]));
    }
}
