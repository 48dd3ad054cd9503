//! Where each service is told and with which key; what becomes of refusals; that secrets stay secret.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use axum::extract::{Request, State};
use axum::http::StatusCode;

use serde_json::json;

use super::*;
use crate::model::Incident;
use crate::notify::message::Event;
use crate::notify::sample;
use crate::samples::{self, START};

const TOKEN: &str = "123456:ABC-secret-token-0123456789";
const PNG: &[u8] = b"\x89PNG not really";

/// One request as it came.
#[derive(Clone, Debug)]
struct Got {
    method: String,
    path: String,
    key: String,
    body: String,
}

/// A receiver on loopback: gives the answers it was given, then 200, and keeps all.
#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    async fn start(answers: &[(u16, &str)]) -> (Self, String) {
        let receiver = Self::default();
        let answers = answers.iter().map(|(status, body)| (*status, (*body).to_owned()));
        receiver.answers.lock().unwrap().extend(answers);
        let app = axum::Router::new().fallback(Self::take).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (receiver, url)
    }

    async fn take(State(this): State<Self>, request: Request) -> (StatusCode, String) {
        let (parts, body) = request.into_parts();
        let keys = ["authorization", webhook::SIGNATURE_HEADER];
        let key = keys.into_iter().find_map(|name| parts.headers.get(name));
        let key = key.map(|key| key.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = axum::body::to_bytes(body, 8 << 20).await.unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        this.got.lock().unwrap().push(Got {
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            key,
            body,
        });
        let (status, said) = this.answers.lock().unwrap().pop_front().unwrap_or((200, "ok".into()));
        (StatusCode::from_u16(status).unwrap(), said)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn config(kind: &str, url: &str, dir: &Path) -> NotifyConfig {
    NotifyConfig {
        kind: kind.into(),
        url: Some(url.to_owned()),
        secret_file: Some(secret(dir, "token", &format!("{TOKEN}\n"))),
        chat_id: Some("-100123".into()),
        topic: Some("outages".into()),
        ..NotifyConfig::default()
    }
}

fn message(event: Event) -> Message {
    Message {
        event,
        delivery: "01JD4Z8QK0A1B2C3D4E5F6G7H9".into(),
        at: START,
        reason: "it began".into(),
        incident: Some(samples::incident()),
        before: None,
        changed_back: None,
        digest: Vec::new(),
        report: None,
    }
}

async fn send(sender: &HttpSender, event: Event, chart: Option<&[u8]>) -> Result<(), SendError> {
    let message = message(event);
    let page = Page::new(&message, "https://gatewatch.example", None);
    sender.send(&message, &page, chart, START).await
}

#[tokio::test]
async fn each_service_is_told_at_its_address_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let id = samples::incident().id;
    let (bearer, genie) =
        ("Basic MTIzNDU2OkFCQy1zZWNyZXQtdG9rZW4tMDEyMzQ1Njc4OQ==", format!("GenieKey {TOKEN}"));
    let bot = format!("/bot{TOKEN}/sendMessage");
    let close = format!("/v2/alerts/{id}/close?identifierType=alias");
    for (kind, path, event, expected, key) in [
        ("webhook", "/hook?a=b", Event::Opened, "/hook?a=b", "t=1795176067,v1="),
        ("alertmanager", "", Event::Opened, "/api/v2/alerts", bearer),
        ("alertmanager", "/am/", Event::Opened, "/am/api/v2/alerts", bearer),
        ("alertmanager", "/api/v2/alerts", Event::Opened, "/api/v2/alerts", bearer),
        ("slack", "/services/T/B/x", Event::Opened, "/services/T/B/x", ""),
        ("teams", "/flow?sig=abc%2Fd", Event::Opened, "/flow?sig=abc%2Fd", ""),
        ("discord", "/api/webhooks/1/x", Event::Opened, "/api/webhooks/1/x", ""),
        ("telegram", "", Event::Opened, bot.as_str(), ""),
        ("ntfy", "", Event::Opened, "/", bearer),
        ("pagerduty", "", Event::Opened, "/v2/enqueue", ""),
        ("opsgenie", "", Event::Opened, "/v2/alerts", &genie),
        ("opsgenie", "/", Event::Resolved, close.as_str(), &genie),
    ] {
        let (receiver, url) = Receiver::start(&[]).await;
        let sender = HttpSender::new(&config(kind, &format!("{url}{path}"), dir.path())).unwrap();
        send(&sender, event, None).await.unwrap();
        let [got] = &receiver.got()[..] else { panic!("{kind}: {:?}", receiver.got()) };
        assert_eq!(got.path, expected, "{kind}");
        assert!(got.key.starts_with(key) && got.key.is_empty() == key.is_empty(), "{got:?}");
        let body: Value = serde_json::from_str(&got.body).unwrap();
        let is_in_body = got.body.contains(TOKEN);
        assert_eq!(is_in_body, kind == "pagerduty", "{kind}");
        assert!(!is_in_body || body["routing_key"] == TOKEN);
        assert_eq!(sender.place(), url, "{kind}: no path");
    }
}

/// Method, path and body of all that came.
fn requests(receiver: &Receiver) -> Vec<(String, Value)> {
    let request = |got: Got| {
        let target = format!("{} {}", got.method, got.path);
        (target, serde_json::from_str(&got.body).unwrap())
    };
    receiver.got().into_iter().map(request).collect()
}

#[tokio::test]
async fn an_alert_of_opsgenie_is_made_if_it_is_missing_and_raised_when_its_incident_grows() {
    let dir = tempfile::tempdir().unwrap();
    let now = samples::incident();
    let mut small = Incident { severity: "warning".into(), ..now.clone() };
    let of = |verb: &str| format!("/v2/alerts/{}/{verb}?identifierType=alias", now.id);
    let open = ["POST /v2/alerts".to_owned(), format!("POST {}", of("notes"))];
    let raised = [format!("PUT {}", of("priority")), format!("PUT {}", of("message"))];
    for (before, expected) in [
        (Some(small.clone()), [&open[..], &raised[..]].concat()),
        (None, [&open[..], &raised[..]].concat()),
        (Some(now.clone()), open.to_vec()),
        (
            {
                (small.severity, small.title) = (now.severity.clone(), "one site fails".into());
                Some(small)
            },
            [&open[..], &raised[1..]].concat(),
        ),
    ] {
        let (receiver, url) = Receiver::start(&[]).await;
        let sender = HttpSender::new(&config("opsgenie", &url, dir.path())).unwrap();
        let message = Message { before, ..message(Event::Updated) };
        let page = Page::new(&message, "https://gatewatch.example", None);
        sender.send(&message, &page, None, START).await.unwrap();
        let got = requests(&receiver);
        let targets: Vec<&String> = got.iter().map(|(target, _)| target).collect();
        assert_eq!(targets, expected.iter().collect::<Vec<_>>());
        assert_eq!(got[0].1["alias"], now.id);
        assert!(got[1].1["note"].as_str().unwrap().starts_with("UPDATE "), "{}", got[1].1);
        for (target, body) in &got[2..] {
            let is_priority = target.contains("/priority");
            let name = if is_priority { "priority" } else { "message" };
            assert_eq!(body, &json!({name: got[0].1[name]}), "nothing else");
            assert!(!is_priority || body["priority"] == "P1");
        }
    }
}

#[tokio::test]
async fn a_try_of_a_pager_rings_lowest_and_leaves_no_alert_open() {
    let dir = tempfile::tempdir().unwrap();
    let message = sample::message(START);
    let page = Page::new(&message, "https://gatewatch.example", None);
    assert!(page.headline.starts_with("TEST of gatewatch, "), "{}", page.headline);
    let identity = format!("test-{}", message.delivery);
    for kind in ["pagerduty", "opsgenie"] {
        let (receiver, url) = Receiver::start(&[]).await;
        let sender = HttpSender::new(&config(kind, &url, dir.path())).unwrap();
        sender.send(&message, &page, None, START).await.unwrap();
        let got = requests(&receiver);
        let [(_, open), (target, close)] = &got[..] else { panic!("{kind}: {got:?}") };
        if kind == "pagerduty" {
            assert_eq!(
                (&open["dedup_key"], &close["dedup_key"]),
                (&json!(identity), &json!(identity))
            );
            assert_eq!(open["payload"]["severity"], "info");
            assert_eq!(close["event_action"], "resolve");
        } else {
            assert_eq!((&open["alias"], &open["priority"]), (&json!(identity), &json!("P5")));
            let expected = format!("POST /v2/alerts/{identity}/close?identifierType=alias");
            assert_eq!(target, &expected);
        }
        let (_, url) = Receiver::start(&[(202, ""), (500, "")]).await;
        let sender = HttpSender::new(&config(kind, &url, dir.path())).unwrap();
        let error = sender.send(&message, &page, None, START).await.unwrap_err();
        assert!(error.why.contains("the test arrived and its alert stays open"), "{}", error.why);
    }
}

#[tokio::test]
async fn an_alertmanager_is_told_again_in_lists_and_one_that_is_refused_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, url) = Receiver::start(&[(400, "bad alert")]).await;
    let sender = HttpSender::new(&config("alertmanager", &url, dir.path())).unwrap();
    let told = (0..1_200).map(|n| {
        let mut message = message(Event::Opened);
        message.incident.as_mut().unwrap().id = format!("01JD{n:022}");
        let page = Page::new(&message, "https://gatewatch.example", None);
        (message, page)
    });
    let error = sender.send_again(&told.collect::<Vec<_>>(), START).await.unwrap_err();
    assert!(error.why.contains("bad alert"), "{}", error.why);
    let got = requests(&receiver);
    let ids: Vec<&Value> = got.iter().flat_map(|(_, body)| body.as_array().unwrap()).collect();
    let sizes: Vec<usize> = got.iter().map(|(_, body)| body.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [500, 500, 200]);
    assert_eq!(ids[1_199]["labels"]["incident"], format!("01JD{:022}", 1_199));
}

#[test]
fn a_service_without_url_is_where_the_table_of_kinds_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut n_known = 0;
    for (name, url) in kinds::KINDS.iter().filter_map(|kind| Some((kind.name, kind.url?))) {
        let config = NotifyConfig { url: None, ..config(name, "", dir.path()) };
        assert_eq!(HttpSender::new(&config).unwrap().place(), url);
        n_known += 1;
    }
    assert_eq!(n_known, 4);
}

#[tokio::test]
async fn a_token_without_a_colon_is_a_bearers() {
    let dir = tempfile::tempdir().unwrap();
    let (receiver, url) = Receiver::start(&[]).await;
    let config = config("ntfy", &url, dir.path());
    secret(dir.path(), "token", "tk_abc\n");
    send(&HttpSender::new(&config).unwrap(), Event::Opened, None).await.unwrap();
    assert_eq!(receiver.got()[0].key, "Bearer tk_abc");
    let open = NotifyConfig { secret_file: None, ..config };
    send(&HttpSender::new(&open).unwrap(), Event::Opened, None).await.unwrap();
    assert_eq!(receiver.got()[1].key, "");
}

#[tokio::test]
async fn a_picture_goes_where_pictures_are_shown_and_is_left_out_when_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, fields) in [
        (
            "discord",
            &[
                "name=\"payload_json\"",
                "name=\"files[0]\"; filename=\"chart.png\"",
                "attachment://chart.png",
            ][..],
        ),
        (
            "telegram",
            &[
                "name=\"caption\"",
                "name=\"photo\"; filename=\"chart.png\"",
                "name=\"parse_mode\"",
                "-100123",
            ][..],
        ),
        ("slack", &[][..]),
    ] {
        let (receiver, url) = Receiver::start(&[(400, "Bad Request: IMAGE_PROCESS_FAILED")]).await;
        let sender = HttpSender::new(&config(kind, &url, dir.path())).unwrap();
        let sent = send(&sender, Event::Opened, Some(PNG)).await;
        let got = receiver.got();
        if kind == "slack" {
            assert!(sent.unwrap_err().is_final);
            assert_eq!(got.len(), 1, "it shows none");
            continue;
        }
        sent.unwrap();
        assert_eq!(got.len(), 2, "{kind}");
        for field in fields {
            assert!(got[0].body.contains(field), "{kind}: no {field} in {}", got[0].body);
        }
        assert!(got[0].body.contains("PNG not really"));
        let body: Value = serde_json::from_str(&got[1].body).unwrap();
        assert!(!body.to_string().contains("chart.png"), "{body}");
        assert_eq!(sender.n_fallbacks(), 0, "no template failed");
    }
}

#[tokio::test]
async fn a_page_is_not_lost_to_an_operators_template() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own.j2");
    fs::write(&own, "{\"text\": {{ reason }}, {% if reason == 'it began' %}no JSON{% else %}\"a\":1{% endif %}}").unwrap();
    for (template, answers, expected) in [
        // It fails with a reason the samples did not have.
        (
            "{% if reason == 'it began' and delivery == '01JD4Z8QK0A1B2C3D4E5F6G7H9' and since == '2026-11-20T12:01:07.000Z' and n_sites_more == 27 and servers[0] == 'web-07' and facts[0].name == 'none' %}{% endif %}{\"text\": {{ title }}}",
            vec![(400, "invalid_blocks")],
            2,
        ),
        ("{\"text\": {{ title }}}", vec![(500, "")], 1),
        ("{\"text\": {{ title }}}", vec![], 1),
    ] {
        fs::write(&own, template).unwrap();
        let (receiver, url) = Receiver::start(&answers).await;
        let mut config = config("slack", &url, dir.path());
        config.template_file = Some(own.clone());
        let sender = HttpSender::new(&config).unwrap();
        let sent = send(&sender, Event::Opened, None).await;
        assert_eq!(sent.is_ok(), answers.first().is_none_or(|(status, _)| *status == 400));
        let got = receiver.got();
        assert_eq!(got.len(), expected);
        assert!(!got[0].body.contains("blocks"), "the operator's");
        assert_eq!(got.iter().any(|got| got.body.contains("blocks")), expected == 2);
        assert_eq!(sender.n_fallbacks(), expected as u64 - 1);
    }
}

#[tokio::test]
async fn a_template_that_fails_for_one_message_leaves_it_to_the_built_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own.j2");
    // Every sample is about 37 sites.
    fs::write(&own, "{\"n\": {{ counts.n_sites if counts.n_sites in [0, 37] else nowhere }}}")
        .unwrap();
    let (receiver, url) = Receiver::start(&[]).await;
    let mut config = config("slack", &url, dir.path());
    config.template_file = Some(own);
    let sender = HttpSender::new(&config).unwrap();
    let mut message = message(Event::Opened);
    message.incident.as_mut().unwrap().affected.n_sites = 38;
    let page = Page::new(&message, "https://gatewatch.example", None);
    for _ in 0..2 {
        sender.send(&message, &page, None, START).await.unwrap();
    }
    assert!(receiver.got().iter().all(|got| got.body.contains("blocks")));
    assert_eq!((receiver.got().len(), sender.n_fallbacks()), (2, 2));
}

#[tokio::test]
async fn no_error_tells_a_secret_or_the_path_of_a_url() {
    let dir = tempfile::tempdir().unwrap();
    let path = "/services/T0SECRET/B0SECRET/x0SECRET?sig=q0SECRET";
    let said = format!("no such thing: {path} q0SECRET x0SECRET {TOKEN}");
    for kind in CHANNELS.iter().map(|channel| channel.kind) {
        for status in [301, 400, 401, 404, 429, 500] {
            let (_receiver, url) = Receiver::start(&[(status, said.as_str())]).await;
            let config = config(kind, &format!("{url}{path}"), dir.path());
            let sender = HttpSender::new(&config).unwrap();
            let error = send(&sender, Event::Opened, None).await.unwrap_err();
            let shown = format!("{} {} {sender:?}", error.why, sender.place());
            let shown = shown.replace(&url, "");
            assert!(error.why.contains("no such thing"), "{kind}: {}", error.why);
            assert!(!error.why.contains("SECRET"), "{kind}: {}", error.why);
            assert!(!shown.contains("ABC-secret-token"), "{kind}: {shown}");
            assert!(!shown.contains("SECRET"), "{kind}: {shown}");
        }
    }
    // Nobody listens, or the name is none.
    for host in ["127.0.0.1:9", "nowhere.invalid"] {
        let config = config("slack", &format!("http://{host}{path}"), dir.path());
        let sender = HttpSender::new(&config).unwrap();
        let error = send(&sender, Event::Opened, None).await.unwrap_err();
        assert!(!error.is_final && !error.why.contains("SECRET"), "{}", error.why);
    }
}

#[tokio::test]
async fn a_receiver_that_echoes_our_authorization_tells_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    // `printf 'ann:correct horse' | base64`
    let said = "who is Basic YW5uOmNvcnJlY3QgaG9yc2U= here";
    let (_receiver, url) = Receiver::start(&[(401, said)]).await;
    let key = secret(dir.path(), "login", "ann:correct horse");
    let config =
        NotifyConfig { secret_file: Some(key), ..config("alertmanager", &url, dir.path()) };
    let sender = HttpSender::new(&config).unwrap();
    let error = send(&sender, Event::Opened, None).await.unwrap_err();
    assert!(error.why.contains("who is Basic (secret)= here"), "{}", error.why);
}

#[tokio::test]
async fn files_of_secrets_are_read_for_each_message_and_may_hold_anything() {
    let dir = tempfile::tempdir().unwrap();
    let (old, old_url) = Receiver::start(&[]).await;
    let (new, new_url) = Receiver::start(&[]).await;
    let file = secret(dir.path(), "url", &format!("{old_url}/a\n"));
    let base = config("slack", "", dir.path());
    let config = NotifyConfig { url: None, url_file: Some(file), ..base };
    let sender = HttpSender::new(&config).unwrap();
    send(&sender, Event::Opened, None).await.unwrap();
    secret(dir.path(), "url", &format!("{new_url}/b"));
    send(&sender, Event::Opened, None).await.unwrap();
    assert_eq!((old.got().len(), new.got().len()), (1, 1));
    for text in ["not a URL", "ftp://x/", "http://", "\0", "https://ann:pw@x.example/"] {
        secret(dir.path(), "url", text);
        let error = send(&sender, Event::Opened, None).await.unwrap_err();
        assert!(!error.is_final && error.why.contains("/url: "), "{}", error.why);
    }
    fs::set_permissions(dir.path().join("url"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = send(&sender, Event::Opened, None).await.unwrap_err();
    assert!(error.why.contains("everybody can use it"), "{}", error.why);
    for kind in CHANNELS.iter().map(|channel| channel.kind) {
        let (_receiver, url) = Receiver::start(&[]).await;
        let sender = HttpSender::new(&self::config(kind, &url, dir.path())).unwrap();
        for text in ["a\nb: c", "é\u{7f}\0", "\u{1F600}/../x?y#z"] {
            secret(dir.path(), "token", text);
            if let Err(error) = send(&sender, Event::Opened, None).await {
                assert!(!error.is_final, "{kind} {text:?}: {}", error.why);
            }
        }
    }
}

type Change<'a> = &'a dyn Fn(&mut NotifyConfig);

#[test]
fn what_is_wrong_with_a_table_is_said_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let good = config("slack", "https://hooks.example/x", dir.path());
    let short = secret(dir.path(), "short", "short");
    let lines = secret(dir.path(), "lines", "one\ntwo");
    let empty = secret(dir.path(), "empty", "\n");
    let cases: [(&str, Change<'_>, &str); 13] = [
        ("slack", &|_| (), ""),
        ("slack", &|c| c.url = None, "url: is missing"),
        ("alertmanager", &|c| c.url = None, "url: is missing"),
        ("telegram", &|c| c.url = None, ""),
        ("slack", &|c| c.url_file = Some(empty.clone()), "url_file: is set beside url"),
        ("slack", &|c| c.url = Some("mailto:x".into()), "url: \"mailto\" is not http"),
        (
            "telegram",
            &|c| c.secret_file = None,
            "secret_file: is missing: name the file with the token",
        ),
        ("ntfy", &|c| c.secret_file = None, ""),
        ("webhook", &|c| c.secret_file = Some(short.clone()), "secret_file: "),
        (
            "pagerduty",
            &|c| c.secret_file = Some(lines.clone()),
            "holds more than one line: leave only",
        ),
        ("opsgenie", &|c| c.secret_file = Some(empty.clone()), "is empty"),
        ("slack", &|c| c.ca_file = Some(empty.clone()), "ca_file: "),
        ("slack", &|c| c.template_file = Some(dir.path().join("no")), "template_file: "),
    ];
    for (kind, change, expected) in cases {
        let mut config = NotifyConfig { kind: kind.into(), ..good.clone() };
        change(&mut config);
        let mut problems = crate::notify::check(&[config]);
        problems.retain(|text| !text.contains("is nothing that"));
        let problems = problems.join("\n");
        let is_as_expected =
            if expected.is_empty() { problems.is_empty() } else { problems.contains(expected) };
        assert!(is_as_expected, "{kind}: {problems:?} and not {expected:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_believed_when_ca_file_vouches_for_it_and_else_not() {
    let dir = tempfile::tempdir().unwrap();
    drop(rustls::crypto::ring::default_provider().install_default());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut read = vec![0; 65_536];
            if stream.read(&mut read).await.is_ok() {
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                drop(stream.write_all(answer).await);
                drop(stream.shutdown().await);
            }
        }
    });
    let mut config = config("discord", &format!("https://localhost:{port}/x"), dir.path());
    let error = send(&HttpSender::new(&config).unwrap(), Event::Opened, None).await.unwrap_err();
    assert!(!error.is_final && error.why.contains("certificate"), "{}", error.why);
    config.ca_file = Some(dir.path().join("ca.pem"));
    send(&HttpSender::new(&config).unwrap(), Event::Opened, None).await.unwrap();
}
