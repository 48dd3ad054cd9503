//! The evidence bundle of an incident, for the provider's support ticket: times, the order in which
//! servers were hit, their steal and losses, what their logs said; as JSON and as a page that prints.
//!
//! Times are UTC on the collector's clock: what a server dated is moved by the offset of its clock,
//! which is shown. Nothing is in it that the store does not hold, so its privacy is that of the agents.

mod gather;
mod render;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use wire::UnixMillis;

use super::AppState;
use super::api::{full_id, no_incident};
use super::error::{ApiError, InPath};
use super::health::HealthEvent;
use crate::clock;
use crate::model::Incident;
use crate::store::history::Limits;
use crate::store::incidents;

/// Longest reading of batches: what was read by then is a bundle, while the store cuts any read off
/// after 30 s and leaves nothing.
const READ_TIME_MAX: Duration = Duration::from_secs(20);

/// Nothing but the page itself may be loaded or run.
pub(super) const POLICY: (HeaderName, &str) =
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'");

/// The bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Bundle {
    /// When it was made.
    #[serde(with = "wire::rfc3339")]
    pub made_at: UnixMillis,
    /// First instant looked at.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// Last instant looked at.
    #[serde(with = "wire::rfc3339")]
    pub to: UnixMillis,
    /// What the times are.
    pub clock: String,
    /// The incident as it stands.
    pub incident: Incident,
    /// Servers hit; those beyond the first 200 are only counted.
    pub n_servers: usize,
    /// The servers in the order they were hit.
    pub servers: Vec<ServerEvidence>,
    /// What happened to the collector itself in that time.
    pub collector: Vec<HealthEvent>,
    /// Some of it was left out: there is more than a bundle holds, or the store no longer has it.
    pub truncated: bool,
}

/// What is known of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ServerEvidence {
    /// Its name.
    pub server: String,
    /// Which it was to be hit, from 1.
    pub order: usize,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its first sign.
    #[serde(with = "wire::rfc3339")]
    pub onset_at: UnixMillis,
    /// When it was well again; null: not yet.
    #[serde(with = "wire::rfc3339::option")]
    pub well_at: Option<UnixMillis>,
    /// Its clock minus the collector's.
    pub clock_offset_ms: Option<i64>,
    /// Share of processor time that the hypervisor took, 0..1.
    pub steal: Option<Curve>,
    /// Share of segments sent again, 0..1.
    pub retransmit: Option<Curve>,
    /// Times in which nothing arrived from it.
    pub silences: Vec<Silence>,
    /// What its services did, its logs said and was changed on it, oldest first.
    pub facts: Vec<Fact>,
}

/// Values over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Curve {
    /// Least.
    pub min: f64,
    /// Mean of the samples.
    pub mean: f64,
    /// Most.
    pub max: f64,
    /// Instant and value; the highest of each step when there were more.
    pub points: Vec<Point>,
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// How much.
    pub value: f64,
}

/// A time in which nothing arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Silence {
    /// Last word before it.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// First word after it, or the end of what was read; null: none yet.
    #[serde(with = "wire::rfc3339::option")]
    pub to: Option<UnixMillis>,
}

/// One dated fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fact {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// `service`, `log` or `change`.
    pub kind: String,
    /// In words, as stored.
    pub text: String,
}

/// `GET /api/v1/incidents/{id}/evidence`
pub(super) async fn json(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
) -> Result<Json<Bundle>, ApiError> {
    Ok(Json(bundle(&state, &id).await?))
}

/// `GET /api/v1/incidents/{id}/evidence.html`
pub(super) async fn html(
    State(state): State<AppState>,
    InPath(id): InPath<String>,
) -> Result<impl IntoResponse, ApiError> {
    let page = render::page(&bundle(&state, &id).await?);
    let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
    Ok(([kind, POLICY], page))
}

async fn bundle(state: &AppState, id: &str) -> Result<Bundle, ApiError> {
    let (full, now) = (full_id(state, id).await?, clock::now());
    let found = state.store.history(Limits::within(READ_TIME_MAX), move |history| {
        let Some(incident) = incidents::get(history.conn(), &full)? else { return Ok(None) };
        gather::bundle(history, incident, now).map(Some)
    });
    found.await?.value.ok_or_else(|| no_incident(id))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::{Value, json};
    use wire::v1;

    use super::super::tests::{Site, keys};
    use crate::model::{ServerId, Transition, TransitionEvent};
    use crate::store::{Ledger, NewBatch, incidents};
    use wire::UnixMillis;

    #[tokio::test]
    async fn a_bundle_has_the_servers_in_the_order_they_were_hit_also_when_all_is_over() {
        let site = Site::new();
        for name in ["web-07", "web-08", "web-09"] {
            site.add_server(name).await;
        }
        let mut incident = crate::samples::incident();
        let later = |s: i64| UnixMillis(incident.started_at.0 + s * 1000);
        let servers = vec![
            (ServerId(1), later(7), Some(later(60))),
            (ServerId(2), later(0), Some(later(50))),
            (ServerId(3), later(3), None),
        ];
        let id = incident.id.clone();
        incident.resolved_at = Some(later(90));
        let transition = Transition {
            event: TransitionEvent::Resolve,
            at: later(90),
            key: "silence:group:rack=r7".into(),
            rev: 3,
            sites: Vec::new(),
            servers,
            notify: None,
            incident,
        };
        let write = move |tx: &crate::store::WriteTx<'_>| {
            incidents::commit(tx, &[transition], b"", 0)?;
            tx.execute("DELETE FROM server WHERE name = 'web-09'", []).map(drop)
        };
        site.state.store.write(write).await.unwrap();
        let (status, bundle) =
            site.ask("get", &format!("/api/v1/incidents/{id}/evidence"), Value::Null).await;
        assert_eq!(status, 200, "{bundle}");
        assert_eq!(
            keys(&bundle),
            [
                "clock",
                "collector",
                "from",
                "incident",
                "made_at",
                "n_servers",
                "servers",
                "to",
                "truncated"
            ]
        );
        let order: Vec<&str> = bundle["servers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|server| server["server"].as_str())
            .collect();
        assert_eq!(order, ["web-08", "web-09", "web-07"], "a forgotten one keeps its place");
        let of_a_server = "clock_offset_ms facts labels onset_at order retransmit server silences \
                           steal well_at";
        assert_eq!(keys(&bundle["servers"][0]).join(" "), of_a_server);
        assert_eq!(bundle["servers"][0]["labels"], json!({"rack": "r7"}));
        let (status, page) =
            site.ask("get", &format!("/api/v1/incidents/{id}/evidence.html"), Value::Null).await;
        assert_eq!(status, 200);
        assert!(page.as_str().unwrap().contains("rack=r7"), "{page}");
    }

    /// A batch whose samples have these instants of the server's clock and this steal, 1/10,000.
    fn batch(
        server: i64,
        seq: u64,
        arrived: UnixMillis,
        samples: &[(UnixMillis, i64)],
    ) -> NewBatch {
        let series =
            vec![v1::Series { metric: "system.cpu.steal".into(), attribute: String::new() }];
        let tick = |(at, steal): &(UnixMillis, i64)| v1::Tick {
            at_unix_ms: at.0,
            series: vec![0],
            value: vec![*steal],
        };
        let body = v1::BatchBody {
            series,
            ticks: samples.iter().map(tick).collect(),
            ..v1::BatchBody::default()
        };
        NewBatch {
            server: ServerId(server),
            epoch: 1,
            seq,
            n_evicted: 0,
            n_lines_evicted: 0,
            n_bytes_evicted: 0,
            at: arrived,
            t_min: samples[0].0,
            t_max: samples[0].0,
            complete_until: samples[0].0,
            urgent: true,
            codec: 1,
            body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
            sites: Vec::new(),
            losses: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    #[tokio::test]
    async fn steal_is_that_of_the_stored_batches_at_the_collectors_times() {
        let site = Site::new();
        for name in ["web-07", "web-08"] {
            site.add_server(name).await;
        }
        // web-07 is two hours ahead.
        let ahead =
            r#"UPDATE server SET meta = '{"clock_offset_ms":7200000}' WHERE name = 'web-07'"#;
        site.state.store.write(move |tx| tx.execute(ahead, []).map(drop)).await.unwrap();
        let start = crate::clock::now().minus(std::time::Duration::from_secs(1800));
        let start = UnixMillis(start.0.div_euclid(1000) * 1000);
        let later = |s: i64| UnixMillis(start.0 + s * 1000);
        let shown = |s: i64| UnixMillis(later(s).0 + 7_200_000);
        for (seq, s, steal) in [(1, -700, 9_000), (2, -10, 100), (3, 10, 4_200), (4, 20, 3_800)] {
            let batch = batch(1, seq, later(s + 3), &[(shown(s), steal)]);
            site.state.store.append(batch).await.unwrap().await.unwrap().unwrap();
        }
        let mut incident = crate::samples::incident();
        (incident.started_at, incident.resolved_at) = (start, Some(later(90)));
        let id = incident.id.clone();
        let spells = [1, 2].map(|n| (ServerId(n), later(n), Some(later(60)))).to_vec();
        let transition = Transition {
            event: TransitionEvent::Resolve,
            at: later(90),
            key: "pressure:group:rack=r7".into(),
            rev: 3,
            sites: Vec::new(),
            servers: spells,
            notify: None,
            incident,
        };
        let write = move |tx: &crate::store::WriteTx<'_>| {
            incidents::commit(tx, &[transition], b"", 0).map(drop)
        };
        site.state.store.write(write).await.unwrap();
        let bundle = site.get(&format!("/api/v1/incidents/{id}/evidence")).await;
        let server = &bundle["servers"][0];
        assert_eq!(
            (&server["server"], &server["clock_offset_ms"]),
            (&json!("web-07"), &json!(7_200_000))
        );
        let steal = &server["steal"];
        assert_eq!((&steal["min"], &steal["max"]), (&json!(0.01), &json!(0.42)));
        assert!((steal["mean"].as_f64().unwrap() - 0.27).abs() < 1e-9, "{steal}");
        // Eleven minutes before the first sign is not shown.
        let point = |s: i64, value: f64| json!({"at": later(s).to_string(), "value": value});
        assert_eq!(steal["points"], json!([point(-10, 0.01), point(10, 0.42), point(20, 0.38)]));
        assert_eq!(bundle["servers"][1]["steal"], Value::Null, "nothing is stored of it");
    }

    #[tokio::test]
    async fn a_sound_collector_says_so() {
        let health = Site::new().get("/api/v1/health").await;
        let sound = json!({
            "state": "ok", "uplink_lost": false, "disk_full": false, "damaged": [], "n_damaged": 0,
            "backup": null, "disk": null, "started_at": null, "events": [], "links": ""
        });
        assert_eq!(health, sound);
    }
}
