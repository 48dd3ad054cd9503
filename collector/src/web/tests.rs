//! The router as its callers meet it: shapes, rights, refusals, over memory, socket and TCP.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use super::*;
use crate::model::{Incident, SiteId, Transition, TransitionEvent};
use crate::selfstats::DiskUse;
use crate::store::fleet::{self, Joining, LabelSource};
use crate::store::incidents;
use crate::{ca, clock};

pub(crate) struct Site {
    pub(crate) router: Router,
    pub(crate) state: AppState,
    pub(crate) dir: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::now();
        let token = AdminToken::load_or_create(&dir.path().join("admin.token")).unwrap();
        let state = AppState::new(
            Store::open(dir.path()).unwrap(),
            Arc::new(Ca::load_or_create(&dir.path().join("ca"), now).unwrap()),
            token,
            "collector.example:8502".into(),
            CancellationToken::new(),
        );
        Self { router: router(state.clone()), state, dir }
    }

    pub(crate) fn admin_token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("admin.token")).unwrap().trim().to_owned()
    }

    async fn send(&self, request: Request<Body>) -> (u16, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap())
            .uri(path)
            .header("Authorization", format!("Bearer {}", self.admin_token()))
            .header("Content-Type", "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("get", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub(crate) async fn add_server(&self, name: &'static str) {
        let now = clock::now();
        let write = self.state.store.write(move |tx| {
            let uuid = ca::new_id(now).unwrap();
            let joining = Joining { uuid, name, token: "t", key_sha256: [7; 32] };
            let server = fleet::create(tx, &joining, now)?;
            let labels = [("rack".to_owned(), "r7".to_owned())].into();
            fleet::set_labels(tx, server, LabelSource::Token, &labels)?;
            let serial = ca::sha256(name.as_bytes());
            fleet::add_certificate(tx, server, &serial, now.plus(ca::CERTIFICATE_LIFE), now)
        });
        write.await.unwrap();
    }

    pub(crate) async fn add_incident(&self, rev: u64, incident: Incident) {
        let transition = Transition {
            event: TransitionEvent::Update,
            at: clock::now(),
            key: incident.id.clone(),
            rev,
            sites: Vec::<(SiteId, UnixMillis, Option<UnixMillis>)>::new(),
            servers: Vec::new(),
            notify: None,
            incident,
        };
        let write = self.state.store.write(move |tx| incidents::commit(tx, &[transition], b"", 0));
        write.await.unwrap();
    }
}

pub(crate) fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn incident(id: &str) -> Incident {
    Incident { id: id.to_owned(), ..crate::samples::incident() }
}

#[tokio::test]
async fn every_documented_operation_is_there_and_wants_a_token_where_it_should() {
    let site = Site::new();
    let document = site.get("/api/v1/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    for (method, path, _, _) in openapi::OPERATIONS {
        assert!(document["paths"][path][method]["summary"].is_string(), "{method} {path}");
        let url = path.replace("{id}", "none").replace("{name}", "none").replace("{kind}", "noise");
        let open = ["/healthz", "/readyz", "/api/v1/openapi.json"].contains(path);
        let bare = Request::builder().method(method.to_uppercase().as_str()).uri(&url);
        let (status, body) = site.send(bare.body(Body::empty()).unwrap()).await;
        assert_eq!(status != 401, open, "{method} {path}: {status} {body}");
        if !["/api/v1/stream", "/api/v1/backup"].contains(path) {
            let (status, body) = site.ask(method, &url, Value::Null).await;
            assert_ne!(status, 405, "{method} {path}");
            assert_ne!(body["error"], "there is nothing at this path", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_the_data_directory_takes_shows_in_health_and_metrics() {
    let site = Site::new();
    site.state.store.stats().disk_use.set(DiskUse {
        blocks_bytes: 7 << 30,
        all_bytes: 9 << 30,
        bytes_max: 8 << 30,
        is_over: true,
        raw_from: Some(UnixMillis(1_795_132_800_000)),
        ..DiskUse::default()
    });
    let health = site.get("/api/v1/health").await;
    let disk = &health["disk"];
    assert_eq!((&health["state"], &disk["is_over"]), (&json!("degraded"), &json!(true)));
    assert_eq!(
        (&disk["raw_from"], &disk["rollup_from"], &disk["blocks_bytes"]),
        (&json!("2026-11-20T00:00:00.000Z"), &Value::Null, &json!(7_u64 << 30))
    );
    let (_, page) = site.ask("get", "/metrics", Value::Null).await;
    for line in ["gatewatch_collector_disk_over 1", "gatewatch_disk_limit_bytes 8589934592"] {
        assert!(page.as_str().unwrap().lines().any(|l| l == line), "{line}");
    }
}

#[tokio::test]
async fn refusals_are_json_with_a_fix() {
    let site = Site::new();
    let wrong = Request::get("/api/v1/agents").header("Authorization", "Bearer wrong");
    let (status, body) = site.send(wrong.body(Body::empty()).unwrap()).await;
    assert_eq!((status, keys(&body)), (401, vec!["error", "fix"]));
    for (method, path, body, status) in [
        ("get", "/nothing", Value::Null, 404),
        ("put", "/api/v1/agents", Value::Null, 405),
        ("get", "/api/v1/agents/%00", Value::Null, 404),
        ("get", "/api/v1/agents/%ff", Value::Null, 400),
        ("get", "/api/v1/incidents/'%20OR%201=1", Value::Null, 404),
        ("get", "/api/v1/incidents/%25", Value::Null, 404),
        ("get", "/api/v1/incidents?since=yesterday", Value::Null, 400),
        ("get", "/api/v1/incidents?limit=0", Value::Null, 400),
        ("get", "/api/v1/incidents?nonsense=1", Value::Null, 400),
        ("get", "/api/v1/export?from=yesterday", Value::Null, 400),
        ("get", "/api/v1/export?to=1795176000000", Value::Null, 400),
        (
            "get",
            "/api/v1/export?from=2026-11-20T12:00:00Z&to=2026-11-20T12:00:00Z",
            Value::Null,
            400,
        ),
        ("get", "/api/v1/export?since=2026-11-20T12:00:00Z", Value::Null, 400),
        ("get", "/api/v1/counts?server=none", Value::Null, 404),
        ("get", "/api/v1/counts", Value::Null, 400),
        ("get", "/api/v1/localize?from=yesterday", Value::Null, 400),
        (
            "get",
            "/api/v1/localize?from=2026-11-20T12:00:00Z&to=2026-11-20T12:00:00Z",
            Value::Null,
            400,
        ),
        (
            "get",
            "/api/v1/localize?from=2026-11-01T12:00:00Z&to=2026-11-20T12:00:00Z",
            Value::Null,
            400,
        ),
        ("get", "/api/v1/localize?by=site,site", Value::Null, 400),
        ("get", "/api/v1/localize?by=no-such-label", Value::Null, 400),
        ("get", "/api/v1/localize?nonsense=1", Value::Null, 400),
        ("post", "/api/v1/tokens", json!("no object"), 422),
        ("post", "/api/v1/tokens", json!({"ttl": "1 fortnight"}), 422),
        ("post", "/api/v1/tokens", json!({"ttl": "0s"}), 400),
        ("post", "/api/v1/tokens", json!({"uses": 0}), 400),
        ("post", "/api/v1/tokens", json!({"labels": {"a b": "c"}}), 400),
        ("post", "/api/v1/tokens", json!({"replace": "none"}), 404),
        ("post", "/api/v1/tokens", json!({"usses": 1}), 422),
        ("post", "/api/v1/tokens", json!({"labels": {"a": "x".repeat(70_000)}}), 413),
        ("delete", "/api/v1/tokens/none", Value::Null, 404),
        ("post", "/api/v1/incidents/none/ack", json!({"by": "ann"}), 404),
        ("post", "/api/v1/incidents/none/ack", json!({"by": "\u{1b}[2J"}), 400),
        ("patch", "/api/v1/agents/none/labels", json!({"a": "b"}), 404),
        ("post", "/api/v1/agents/none/revoke", Value::Null, 404),
        ("delete", "/api/v1/agents/none", Value::Null, 404),
    ] {
        let (got, answer) = site.ask(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert_eq!(keys(&answer), ["error", "fix"], "{method} {path}");
    }
}

#[tokio::test]
async fn what_failing_requests_have_in_common_has_its_shape() {
    let site = Site::new();
    site.add_server("web-07").await;
    let answer =
        site.get("/api/v1/localize?from=2026-11-20T12:00:00Z&to=2026-11-20T12:15:00Z").await;
    assert_eq!(
        answer,
        json!({
            "before_from": "2026-11-20T11:00:00.000Z", "from": "2026-11-20T12:00:00.000Z",
            "to": "2026-11-20T12:15:00.000Z", "by": ["server", "site", "pool"], "n": 0,
            "n_failed": 0, "n_batches_unreadable": 0, "complete": true, "found": [], "cut": null,
            "holes": []
        })
    );
}

#[tokio::test]
async fn a_second_question_of_what_failures_share_is_told_to_wait() {
    let site = Site::new();
    let place = site.state.localizing.clone().acquire_owned().await.unwrap();
    let (status, busy) = site.ask("get", "/api/v1/localize", Value::Null).await;
    let told = json!({
        "error": "the collector localizes for somebody else", "fix": "ask again in a minute"
    });
    assert_eq!((status, busy), (429, told));
    drop(place);
    for _ in 0..2 {
        site.get("/api/v1/localize").await;
    }
    let (status, _) = site.ask("get", "/api/v1/localize?by=no-such-label", Value::Null).await;
    assert_eq!(status, 400);
    site.get("/api/v1/localize").await;
}

#[tokio::test]
async fn a_token_is_told_once_and_listed_without_its_secret() {
    let site = Site::new();
    let wish = json!({"labels": {"rack": "r7"}, "ttl": "2h", "uses": 3});
    let (status, made) = site.ask("post", "/api/v1/tokens", wish).await;
    assert_eq!(status, 201);
    for key in ["id", "token", "ca_hash", "expires_at", "uses", "labels", "command"] {
        assert!(!made[key].is_null(), "{key} of the contract");
    }
    let text = |key: &str| made[key].as_str().unwrap();
    assert_eq!(text("ca_hash"), site.state.ca.hash());
    assert_eq!((&made["uses"], &made["labels"]), (&json!(3), &json!({"rack": "r7"})));
    let (command, secret) = (text("command"), text("token").split_once('.').unwrap().1);
    assert_eq!(secret.len(), 32);
    let pin = base64_by_table(&site.state.ca.server_key_sha256());
    assert!(command.starts_with(&format!("curl -fsS --insecure --pinnedpubkey 'sha256//{pin}' ")));
    let join = format!(
        "--collector collector.example:8502 --token {} --ca-hash {}",
        text("token"),
        site.state.ca.hash()
    );
    assert!(command.ends_with(&join), "{command}");
    assert_eq!(text("enroll_command"), format!("gatewatch-agent enroll {join}"));
    let left = UnixMillis::parse_rfc3339(text("expires_at")).unwrap().since(clock::now());
    assert!(left > Duration::from_secs(7100) && left <= Duration::from_secs(7200));

    let listed = site.get("/api/v1/tokens").await;
    assert_eq!(
        keys(&listed[0]),
        ["created_at", "expires_at", "id", "labels", "n_used", "replace", "state", "uses"]
    );
    assert_eq!(listed[0]["state"], "valid");
    assert!(!listed.to_string().contains(secret));
    let on_disk = std::fs::read(site.dir.path().join("gatewatch.db")).unwrap();
    assert!(!on_disk.windows(32).any(|bytes| bytes == secret.as_bytes()));
    let path = format!("/api/v1/tokens/{}", text("id"));
    assert_eq!(site.ask("delete", &path, Value::Null).await.0, 204);
    assert_eq!(site.get("/api/v1/tokens").await[0]["state"], "revoked");
}

/// Base64 by another way than the code under test: bit by bit.
fn base64_by_table(bytes: &[u8]) -> String {
    let letters: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let mut text: String = bits
        .chunks(6)
        .map(|six| (0..6).fold(0, |n, i| n << 1 | usize::from(*six.get(i).unwrap_or(&0))))
        .map(|n| letters[n])
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

#[tokio::test]
async fn agents_are_listed_shown_labelled_revoked_and_forgotten() {
    let site = Site::new();
    site.add_server("web-07").await;
    let listed = site.get("/api/v1/agents").await;
    assert_eq!(
        listed,
        json!([{
            "server": "web-07", "labels": {"rack": "r7"}, "version": null, "state": "silent",
            "last_seen_at": null, "clock_offset_ms": null, "spool_bytes": null, "n_sites": 0,
            "loss": {
                "n_lines_rejected": 0, "n_lines_lost": 0, "n_bytes_lost": 0, "n_batches_evicted": 0,
                "n_bytes_rejected": 0, "n_bytes_evicted": 0, "n_bytes_recovered": 0,
                "n_truncations": 0
            },
            "ledger": {
                "n_lines_seen": 0, "n_lines_counted": 0, "n_lines_rejected": 0, "n_lines_lost": 0,
                "n_bytes_seen": 0, "n_bytes_counted": 0, "n_bytes_rejected": 0, "n_bytes_lost": 0
            }
        }])
    );
    let (status, shown) =
        site.ask("patch", "/api/v1/agents/web-07/labels", json!({"rack": "r9"})).await;
    assert_eq!((status, &shown["labels"]), (200, &json!({"rack": "r9"})));
    let sources = json!([
        {"k": "rack", "v": "r9", "source": "operator"}, {"k": "rack", "v": "r7", "source": "token"}
    ]);
    assert_eq!(shown["label_sources"], sources);
    assert_eq!(keys(&shown["certificates"][0]), ["issued_at", "not_after", "revoked_at", "serial"]);

    let told = site.state.store.revoked();
    let (status, shown) = site.ask("post", "/api/v1/agents/web-07/revoke", Value::Null).await;
    assert_eq!((status, &shown["state"]), (200, &json!("revoked")));
    assert!(shown["certificates"][0]["revoked_at"].is_string());
    assert!(told.has_changed().unwrap());
    assert_eq!(site.ask("delete", "/api/v1/agents/web-07", Value::Null).await.0, 204);
    assert_eq!(site.get("/api/v1/agents").await, json!([]));
}

#[tokio::test]
async fn a_connected_agent_is_not_forgotten_and_a_quiet_one_is_silent() {
    let site = Site::new();
    site.add_server("web-07").await;
    for (ago_s, state, forgotten) in [(1, "up", 409), (19, "up", 409), (21, "silent", 204)] {
        let seen = clock::now().0 - ago_s * 1000;
        let write = site.state.store.write(move |tx| {
            tx.execute(
                "UPDATE server SET state = 'up', last_seen = ?1, meta = '{\"heartbeat_ms\":5000,\"n_sites\":12}'",
                [seen],
            )
        });
        write.await.unwrap();
        let listed = site.get("/api/v1/agents").await;
        assert_eq!(listed[0]["state"], state, "{ago_s} s");
        assert_eq!(listed[0]["n_sites"], 12);
        let (status, _) = site.ask("delete", "/api/v1/agents/web-07", Value::Null).await;
        assert_eq!(status, forgotten, "{ago_s} s");
    }
}

#[tokio::test]
async fn incidents_have_the_shape_of_the_contract() {
    let site = Site::new();
    site.add_incident(1, incident("01JD4Z8QK0A1B2C3D4E5F6G7H8")).await;
    let all = site.get("/api/v1/incidents").await;
    let one = &all[0];
    assert_eq!(
        keys(one),
        [
            "acked_by",
            "actions",
            "affected",
            "cause",
            "change",
            "children",
            "detected_at",
            "id",
            "kind",
            "parent",
            "resolved_at",
            "retroactive",
            "scope",
            "severity",
            "silenced",
            "started_at",
            "state",
            "timeline",
            "title",
            "updated_at",
            "where"
        ]
    );
    assert_eq!(
        keys(&one["where"]),
        ["label", "labels", "members", "pool", "server", "sites", "value"]
    );
    assert_eq!(
        keys(&one["affected"]),
        [
            "n_502",
            "n_503",
            "n_504",
            "n_crawler",
            "n_gateway_errors",
            "n_requests",
            "n_servers",
            "n_sites",
            "n_sites_active"
        ]
    );
    assert_eq!(keys(&one["cause"]), ["alternatives", "class", "confidence", "evidence"]);
    assert_eq!(keys(&one["cause"]["evidence"][0]), ["at", "kind", "server", "text", "weight"]);
    assert_eq!(keys(&one["change"]), ["at", "kind", "score", "text"]);
    assert_eq!(keys(&one["actions"][0]), ["command", "text"]);
    assert_eq!(one["started_at"], "2026-11-20T12:01:07.000Z");
}

#[tokio::test]
async fn incidents_are_chosen_by_time_and_id_and_take_acks_and_notes() {
    let site = Site::new();
    site.add_incident(1, incident("01JD4Z8QK0A1B2C3D4E5F6G7H8")).await;
    let over = Incident {
        state: "resolved".into(),
        resolved_at: Some(UnixMillis(1_795_180_000_000)),
        ..incident("01JD4Z8QK1A1B2C3D4E5F6G7H8")
    };
    site.add_incident(1, over).await;
    let all = site.get("/api/v1/incidents").await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    let open = site.get("/api/v1/incidents?open=true").await;
    assert_eq!(open.as_array().unwrap().len(), 1);
    let later = site.get("/api/v1/incidents?since=2026-11-21T00:00:00Z").await;
    assert_eq!(later.as_array().unwrap().len(), 1, "an open one is not over before any time");
    let ack = json!({"by": "ann"});
    let (status, acked) = site.ask("post", "/api/v1/incidents/01jd4z8qk0/ack", ack).await;
    assert_eq!((status, &acked["acked_by"]), (200, &json!("ann")));
    let note = json!({"by": "ann", "text": "restarted it"});
    let (_, noted) = site.ask("post", "/api/v1/incidents/01JD4Z8QK0/notes", note).await;
    let timeline = noted["timeline"].to_string();
    assert!(timeline.contains("note by ann: restarted it"), "{timeline}");
    let (status, body) = site.ask("get", "/api/v1/incidents/01JD", Value::Null).await;
    assert_eq!(status, 409, "{body}");
}

#[tokio::test]
async fn the_socket_knows_its_callers_and_replaces_only_a_dead_one() {
    let site = Site::new();
    let path = site.dir.path().join("run/collector.sock");
    let listener = bind_socket(&path).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let serve = tokio::spawn(serve_socket(
        listener,
        path.clone(),
        site.router.clone(),
        site.state.stop.clone(),
    ));
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().unix_socket(path.clone()).build().unwrap();
    let ask = async || client.get("http://x/api/v1/agents").send().await.unwrap().status();
    assert_eq!(ask().await, 200, "our own user is admin");
    let error = bind_socket(&path).await.unwrap_err();
    assert!(error.to_string().contains("another collector"), "{error}");
    site.state.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), serve).await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
    drop(bind_socket(&path).await.unwrap());
    assert!(path.exists(), "left by a crash");
    drop(bind_socket(&path).await.unwrap());

    for (uid, own, admin) in [(0, 7, true), (7, 7, true), (8, 7, false), (8, 0, false)] {
        assert_eq!(auth::is_admin(uid, own), admin, "{uid} {own}");
    }
}

#[tokio::test]
async fn a_follower_hears_each_change_and_the_end_of_the_collector() {
    let site = Site::new();
    site.add_incident(1, incident("01JD4Z8QK0A1B2C3D4E5F6G7H8")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/v1/stream", listener.local_addr().unwrap());
    tokio::spawn(serve_http(listener, site.router.clone(), site.state.stop.clone()));
    rustls::crypto::ring::default_provider().install_default().ok();
    let request = reqwest::Client::new().get(url).bearer_auth(site.admin_token());
    let mut answer = request.send().await.unwrap();
    let mut heard = String::new();
    let mut until = async |wanted: &str| {
        while !heard.contains(wanted) {
            let chunk = tokio::time::timeout(Duration::from_secs(20), answer.chunk());
            let chunk = chunk.await.expect(wanted).unwrap().expect(wanted);
            heard.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    until("event: open\ndata: {\"id\":\"01JD4Z8QK0A1B2C3D4E5F6G7H8\"").await;
    site.add_incident(1, incident("01JD4Z8QK1A1B2C3D4E5F6G7H8")).await;
    until("event: opened\ndata: {\"id\":\"01JD4Z8QK1A1B2C3D4E5F6G7H8\"").await;
    let over = Incident {
        state: "resolved".into(),
        resolved_at: Some(clock::now()),
        ..incident("01JD4Z8QK0A1B2C3D4E5F6G7H8")
    };
    site.add_incident(2, over).await;
    until("event: resolved\ndata: {\"id\":\"01JD4Z8QK0A1B2C3D4E5F6G7H8\"").await;
    site.state.stop.cancel();
    let end = tokio::time::timeout(Duration::from_secs(20), answer.chunk()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "the stream ends with the collector");
}

#[tokio::test]
async fn readiness_waits_for_the_collector() {
    let site = Site::new();
    let bare = |path: &str| Request::get(path.to_owned()).body(Body::empty()).unwrap();
    assert_eq!(site.send(bare("/healthz")).await, (200, json!("ok\n")));
    assert_eq!(site.send(bare("/readyz")).await.0, 503);
    site.state.ready.store(true, Ordering::Release);
    assert_eq!(site.send(bare("/readyz")).await, (200, json!("ready\n")));
}

#[test]
fn join_commands_name_an_address_that_others_can_reach() {
    let mut config = Config::default();
    let any: std::net::SocketAddr = "0.0.0.0:8502".parse().unwrap();
    let host = agents_address(&config, any);
    assert!(host.ends_with(":8502") && !host.starts_with("0.0.0.0"), "{host}");
    let local = "127.0.0.1:4321";
    assert_eq!(agents_address(&config, local.parse().unwrap()), local);
    config.grpc.advertise = Some("gw.example:443".into());
    assert_eq!(agents_address(&config, any), "gw.example:443");
}

pub(crate) mod told;
mod turns;

#[tokio::test]
async fn a_link_of_a_message_tells_a_browser_without_a_token_what_to_do() {
    let site = Site::new();
    let asked = |path: &str, accept: &str| {
        let request = Request::get(path).header("Accept", accept);
        request.body(Body::empty()).unwrap()
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let path = "/incidents/01JD4Z8QK0A1B2C3D4E5F6G7H8";
    let response = site.router.clone().oneshot(asked(path, browser)).await.unwrap();
    assert_eq!(response.status(), 401);
    let header = |name| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(header(header::WWW_AUTHENTICATE), "Bearer");
    let (_, page) = site.send(asked(path, browser)).await;
    let page = page.as_str().unwrap();
    assert!(
        page.contains("gatewatch-collector incident show 01JD4Z8QK0A1B2C3D4E5F6G7H8"),
        "{page}"
    );
    assert!(page.contains("Authorization: Bearer") && !page.contains("<script"), "{page}");
    for odd in ["/incidents/%3Cscript%3E", "/incidents/a;rm", "/metrics", "/api/v1/agents"] {
        let (status, page) = site.send(asked(odd, browser)).await;
        let page = page.as_str().unwrap();
        assert_eq!(status, 401, "{odd}");
        assert!(page.contains("incident show ID<") && !page.contains("script"), "{odd}: {page}");
    }
    for program in ["*/*", "application/json"] {
        let (status, body) = site.send(asked(path, program)).await;
        assert_eq!((status, keys(&body)), (401, vec!["error", "fix"]), "{program}");
    }
}
