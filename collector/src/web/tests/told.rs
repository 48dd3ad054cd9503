//! Silences and notifications as their callers meet them: shapes, refusals, a trial, no secret.

use axum::routing::post;

use super::*;
use crate::config::NotifyConfig;
use crate::notify::stats::Outcome;
use crate::store::notices::{self, Notice, What};
use crate::store::outbox;
use crate::{files, notify};

fn ago(s: u64) -> UnixMillis {
    clock::now().minus(Duration::from_secs(s))
}

fn later(s: u64) -> String {
    clock::now().plus(Duration::from_secs(s)).to_rfc3339()
}

fn wish(matches: &Value) -> Value {
    json!({"match": matches, "ends_at": later(3600), "reason": "kernel update", "by": "ann"})
}

/// The keys of `wish` with some replaced; null takes one away.
fn but(mut wish: Value, changes: &Value) -> Value {
    let keys = wish.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        keys.insert(key.clone(), value.clone());
    }
    keys.retain(|_, value| !value.is_null());
    wish
}

/// Routes `good`, `bad` and `dead`, to a receiver that answers 200 and 403 and to nobody; their key is
/// in `dir`. The URLs hold `hunter2`, the key is `swordfish...`.
pub(crate) async fn receivers(dir: &std::path::Path) -> Arc<[Receiver]> {
    let receiver = Router::new()
        .route("/good/hunter2", post(async || "ok"))
        .route("/bad/hunter2", post(async || StatusCode::FORBIDDEN));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, receiver).await });
    let key = dir.join("webhook.key");
    files::replace_private(&key, b"swordfish-swordfish").unwrap();
    let config = |name: &str, address: &str| NotifyConfig {
        kind: "webhook".into(),
        name: Some(name.into()),
        url: Some(format!("http://{address}/{name}/hunter2?key=hunter2")),
        secret_file: Some(key.clone()),
        matches: [("rack".to_owned(), "r7".to_owned())].into(),
        hours: vec!["Mon-Fri 08:00-18:00".into()],
        timezone: Some("UTC".into()),
        ..NotifyConfig::default()
    };
    let configs =
        [config("good", &address), config("bad", &address), config("dead", "127.0.0.1:9")];
    notify::receivers(&configs, &notify::targets(&configs).unwrap())
}

async fn with_routes(site: Site) -> Site {
    let mut state = site.state.clone();
    state.receivers = receivers(site.dir.path()).await;
    state.links = "https://gw.example".into();
    Site { router: router(state.clone()), state, ..site }
}

async fn note(site: &Site, notice: Notice) {
    site.state.store.write(move |tx| notices::add(tx, &notice)).await.unwrap();
}

fn notice(route: &str, what: What, incident: &str) -> Notice {
    Notice {
        at: ago(5),
        incident: Some(incident.into()),
        route: route.into(),
        event: "opened".into(),
        what,
        why: "it began".into(),
        delivery: Some("01JDD".into()),
    }
}

#[tokio::test]
async fn a_silence_is_made_listed_and_ended_in_the_shape_of_the_contract() {
    let site = Site::new();
    site.add_server("web-07").await;
    site.add_server("web-08").await;
    site.add_incident(1, incident("01JD4Z8QK0A1B2C3D4E5F6G7H8")).await;
    let (status, made) = site.ask("post", "/api/v1/silences", wish(&json!({"rack": "r*"}))).await;
    assert_eq!(status, 201, "{made}");
    let shape = [
        "by",
        "ended_at",
        "ended_by",
        "ends_at",
        "id",
        "made_at",
        "match",
        "reason",
        "starts_at",
        "state",
    ];
    let more = ["hint", "n_incidents", "n_servers"];
    let mut expected: Vec<&str> = shape.into_iter().chain(more).collect();
    expected.sort_unstable();
    assert_eq!(keys(&made), expected);
    assert_eq!((&made["state"], &made["match"]), (&json!("active"), &json!({"rack": "r*"})));
    assert_eq!((&made["n_servers"], &made["n_incidents"]), (&json!(2), &json!(1)));
    assert_eq!(made["hint"], Value::Null);
    let early = but(wish(&json!({"server": "db-1"})), &json!({"starts_at": later(60)}));
    let (_, pending) = site.ask("post", "/api/v1/silences", early).await;
    assert_eq!(pending["state"], "pending");
    assert_eq!(pending["hint"], "no server is named db-1");
    assert_eq!((&pending["n_servers"], &pending["n_incidents"]), (&json!(0), &json!(0)));
    let listed = site.get("/api/v1/silences").await;
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(keys(&listed[0]), shape);

    let path = format!("/api/v1/silences/{}?by=bob", made["id"].as_str().unwrap());
    assert_eq!(site.ask("delete", &path, Value::Null).await.0, 204);
    let (status, again) = site.ask("delete", &path, Value::Null).await;
    assert_eq!(status, 409, "{again}");
    assert!(again["error"].as_str().unwrap().contains("is over since"), "{again}");
    assert_eq!(site.get("/api/v1/silences").await.as_array().unwrap().len(), 1);
    let all = site.get("/api/v1/silences?all=true").await;
    let ended = all.as_array().unwrap().iter().find(|one| one["id"] == made["id"]).unwrap();
    assert_eq!((&ended["state"], &ended["ended_by"]), (&json!("ended"), &json!("bob")));
}

#[tokio::test]
async fn a_beginning_of_a_silences_id_is_enough_when_no_other_has_it() {
    let site = Site::new();
    let mut ids = Vec::new();
    for rack in ["r1", "r2"] {
        let (_, made) = site.ask("post", "/api/v1/silences", wish(&json!({"rack": rack}))).await;
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    for (id, status) in
        [("none", 404), ("%25", 404), (&ids[0][..4], 409), (&ids[0].to_lowercase(), 204)]
    {
        let (got, answer) =
            site.ask("delete", &format!("/api/v1/silences/{id}"), Value::Null).await;
        assert_eq!(got, status, "{id}: {answer}");
    }
    assert_eq!(site.get("/api/v1/silences").await[0]["id"], ids[1].as_str());
}

#[tokio::test]
async fn a_silence_that_makes_no_sense_is_refused_with_the_fix() {
    let site = Site::new();
    let good = wish(&json!({"rack": "r7"}));
    for (changes, status, error, fix) in [
        (json!({"match": {}}), 400, "match: is empty: it would silence everything", "'server=*'"),
        (
            json!({"match": {"scope": "rack"}}),
            400,
            "match: scope: no incident has \"rack\"",
            "group",
        ),
        (json!({"match": {"a b": "c"}}), 400, "match: \"a b\": is no label", "server, site"),
        (json!({"match": {"rack": ""}}), 400, "match: rack: is empty", "`*`"),
        (json!({"match": {"rack": "["}}), 400, "match: rack: \"[\" is no pattern", "`*`"),
        (json!({"match": {"rack": 7}}), 422, "expected a string", "openapi"),
        (json!({"ends_at": "tomorrow"}), 400, "ends_at: \"tomorrow\" is no time", "write it"),
        (
            json!({"ends_at": "2026-01-01T00:00:00Z", "starts_at": "2025-01-01T00:00:00Z"}),
            400,
            "ends_at: 2026-01-01T00:00:00.000Z is in the past",
            "2h",
        ),
        (json!({"starts_at": later(7200)}), 400, "is not after its begin", "later"),
        (json!({"ends_at": later(400 * 86_400)}), 400, "more than a year", "earlier"),
        (json!({"reason": " "}), 400, "reason: is empty", "--reason"),
        (json!({"reason": "a\nb"}), 400, "not one line", "--reason"),
        (json!({"by": ""}), 400, "by: is no name", "name"),
        (json!({"forever": true}), 422, "unknown field", "openapi"),
        (json!({"reason": null}), 422, "missing field", "openapi"),
    ] {
        let (got, answer) = site.ask("post", "/api/v1/silences", but(good.clone(), &changes)).await;
        assert_eq!((got, keys(&answer)), (status, vec!["error", "fix"]), "{changes}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(error), "{changes}: {answer}");
        assert!(answer["fix"].as_str().unwrap().contains(fix), "{changes}: {answer}");
    }
    assert_eq!(site.get("/api/v1/silences?all=true").await, json!([]), "none of these is made");
}

#[tokio::test]
async fn routes_show_how_they_stand_and_nothing_secret() {
    let site = with_routes(Site::new()).await;
    note(&site, notice("good", What::Delivered, "I")).await;
    note(&site, notice("bad", What::Refused, "I")).await;
    let write = site.state.store.write(|tx| {
        outbox::owe(tx, "I", "bad", UnixMillis(1_795_176_067_000), "01JDE", "{}")?;
        outbox::postpone(tx, 1, UnixMillis(1_795_176_067_000))
    });
    write.await.unwrap();
    let routes = site.get("/api/v1/notify/routes").await;
    let (good, bad) = (&routes[0], &routes[1]);
    let place = good["place"].as_str().unwrap();
    assert!(place.starts_with("http://127.0.0.1:") && !place[17..].contains('/'), "{place}");
    let mut expected = json!({
        "route": "good", "kind": "webhook", "place": place, "min_severity": "warning",
        "match": {"rack": "r7"}, "hours": ["Mon-Fri 08:00-18:00"], "digest": [], "timezone": "UTC",
        "escalate_after": null, "send_resolved": true, "n_owed": 0, "n_tries": 0,
        "oldest_due_at": null, "n_held": 0, "last_delivered_at": good["last_delivered_at"],
        "last_error": null, "n_delivered": 0, "n_failed": 0
    });
    assert_eq!(*good, expected, "it was delivered before this start");
    assert!(good["last_delivered_at"].is_string());
    expected["route"] = json!("bad");
    expected["n_owed"] = json!(1);
    expected["n_tries"] = json!(1);
    expected["oldest_due_at"] = json!("2026-11-20T12:01:07.000Z");
    expected["last_delivered_at"] = Value::Null;
    expected["last_error"] = json!({"at": bad["last_error"]["at"], "why": "it began"});
    assert_eq!(*bad, expected);
    let page = site.get("/metrics").await;
    assert!(page.as_str().unwrap().contains("gatewatch_notify_owed{route=\"bad\"} 1\n"), "{page}");
    for text in [routes.to_string(), page.to_string(), format!("{:?}", site.state.receivers)] {
        assert!(!text.contains("swordfish"), "{text}");
    }
    assert!(!routes.to_string().contains("hunter2"));
}

#[tokio::test]
async fn a_test_message_is_sent_at_once_told_and_noted() {
    let site = with_routes(Site::new()).await;
    let test = async |name: &str| {
        site.ask("post", &format!("/api/v1/notify/routes/{name}/test"), Value::Null).await
    };
    let (status, told) = test("good").await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(keys(&told), ["delivery", "ok", "place", "route", "took_ms"]);
    assert_eq!((&told["ok"], &told["route"]), (&json!(true), &json!("good")));
    let (status, refused) = test("bad").await;
    assert_eq!((status, keys(&refused)), (502, vec!["error", "fix"]));
    let error = refused["error"].as_str().unwrap();
    assert!(error.starts_with("bad: the test did not arrive at http://127.0.0.1:"), "{error}");
    assert!(error.contains("answered 403"), "{error}");
    assert!(refused["fix"].as_str().unwrap().contains("secret_file"), "{refused}");
    let (status, unknown) = test("none").await;
    assert_eq!(status, 404);
    assert!(unknown["fix"].as_str().unwrap().contains("notify routes"), "{unknown}");
    let log = site.get("/api/v1/notify/log").await;
    let lines = log.as_array().unwrap();
    assert_eq!(lines.len(), 2);
    for (line, what) in lines.iter().zip(["delivered", "refused"]) {
        assert_eq!(
            (&line["event"], &line["what"], &line["incident"]),
            (&json!("test"), &json!(what), &Value::Null)
        );
    }
    assert_eq!(lines[0]["delivery"], told["delivery"]);
    for text in [told.to_string(), refused.to_string(), log.to_string()] {
        assert!(!text.contains("hunter2") && !text.contains("swordfish"), "{text}");
    }
    let routes = site.get("/api/v1/notify/routes").await;
    assert_eq!((&routes[0]["n_delivered"], &routes[1]["n_failed"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn counters_do_not_fall_when_the_notify_log_forgets_and_routes_tell_why_tries_fail() {
    let site = with_routes(Site::new()).await;
    for what in [What::Refused, What::Dropped] {
        note(&site, notice("bad", what, "I")).await;
    }
    let stats = &site.state.notify_stats;
    for outcome in [Outcome::Delivered, Outcome::Refused, Outcome::Failed] {
        stats.count("bad", outcome);
    }
    stats.failed("bad", clock::now().plus(Duration::from_secs(9)), "the receiver answered 503");
    let scrape = async || {
        let page = site.get("/metrics").await;
        let lines = page.as_str().unwrap().lines().filter(|line| line.contains("_total{"));
        lines.filter(|line| line.contains("notif")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = scrape().await;
    for line in [
        "gatewatch_notifications_total{result=\"refused\"} 1",
        "gatewatch_notifications_total{result=\"dropped\"} 1",
        "gatewatch_notify_messages_total{route=\"bad\",result=\"delivered\"} 1",
        "gatewatch_notify_messages_total{route=\"bad\",result=\"refused\"} 1",
    ] {
        assert!(before.iter().any(|found| found == line), "{line}: {before:?}");
    }
    site.state.store.write(|tx| tx.execute("DELETE FROM notice", [])).await.unwrap();
    assert_eq!(scrape().await, before);
    let bad = &site.get("/api/v1/notify/routes").await[1];
    assert_eq!((&bad["n_delivered"], &bad["n_failed"]), (&json!(1), &json!(1)));
    assert_eq!(bad["last_error"]["why"], "the receiver answered 503");
}

#[tokio::test]
async fn the_notify_log_is_chosen_by_incident_route_and_time() {
    let site = with_routes(Site::new()).await;
    let id = "01JD4Z8QK0A1B2C3D4E5F6G7H8";
    site.add_incident(1, incident(id)).await;
    for (route, what, of) in [
        ("good", What::Owed, id),
        ("good", What::Delivered, id),
        ("bad", What::Suppressed, id),
        ("before", What::Expired, "01JD4Z8QK1"),
    ] {
        note(&site, notice(route, what, of)).await;
    }
    let all = site.get("/api/v1/notify/log").await;
    assert_eq!(keys(&all[0]), ["at", "delivery", "event", "incident", "route", "what", "why"]);
    assert_eq!(all[0]["what"], "owed", "oldest first");
    for (query, n) in [
        ("incident=01jd4z8qk0", 3),
        ("route=good", 2),
        ("route=before", 1),
        ("route=good&incident=01JD4", 2),
        ("limit=1", 1),
        ("since=2026-01-01T00:00:00Z", 4),
        ("since=2099-01-01T00:00:00Z", 0),
    ] {
        let found = site.get(&format!("/api/v1/notify/log?{query}")).await;
        assert_eq!(found.as_array().unwrap().len(), n, "{query}: {found}");
    }
    assert_eq!(site.get("/api/v1/notify/log?limit=1").await[0]["route"], "before", "the newest");
    for (query, status) in [
        ("incident=none", 404),
        ("route=none", 404),
        ("limit=0", 400),
        ("since=yesterday", 400),
        ("nonsense=1", 400),
    ] {
        let (got, answer) =
            site.ask("get", &format!("/api/v1/notify/log?{query}"), Value::Null).await;
        assert_eq!((got, keys(&answer)), (status, vec!["error", "fix"]), "{query}: {answer}");
    }
}
