//! What is gathered from a real store: hot, packed and summed up alike.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::signal::counter;
use wire::v1;

use super::{Members, members, noise, outage};
use crate::config::{RetentionConfig, StoreConfig};
use crate::model::{ServerId, SiteId, Transition, TransitionEvent};
use crate::report::ask::Ask;
use crate::report::document::Kind;
use crate::report::noise::Part;
use crate::samples;
use crate::store::history::{History, Limits, Notes};
use crate::store::{Keeper, Ledger, NewBatch, SiteSeen, Store, incidents};

/// A whole hour, some days ago as the batches of these tests see it.
const START: i64 = 1_795_176_000;

fn at(second: i64) -> UnixMillis {
    UnixMillis::from_second(START + second)
}

fn ask() -> Ask {
    let (kind, labels) = (Kind::Outage, BTreeMap::new());
    Ask { kind, from: at(0), to: at(7200), server: None, labels, now: at(7200) }
}

fn site(name: &str) -> v1::Site {
    v1::Site { name: name.into(), ..v1::Site::default() }
}

fn seen(name: &str, owner: &str) -> SiteSeen {
    let owner = (!owner.is_empty()).then(|| owner.to_owned());
    SiteSeen { name: name.into(), pool: None, upstream: None, owner }
}

fn batch(server: i64, seq: u64, body: &v1::BatchBody) -> NewBatch {
    NewBatch {
        server: ServerId(server),
        epoch: 1,
        seq,
        n_evicted: 0,
        n_lines_evicted: 0,
        n_bytes_evicted: 0,
        at: at(7190),
        t_min: at(0),
        t_max: at(7190),
        complete_until: at(7190),
        urgent: false,
        codec: 1,
        body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
        sites: vec![seen("a.example", "alice"), seen("b.example", "")],
        losses: Vec::new(),
        ledger: Ledger::default(),
    }
}

/// Requests, errors that name plugins, steal, and a service that restarts; also from before and after.
fn body() -> v1::BatchBody {
    let second = |site, second, status: &[u32], count: &[u32]| v1::SiteSecond {
        site,
        second: START + second,
        status: status.to_vec(),
        count: count.to_vec(),
    };
    let exemplar = |site, second: i64, path: &str, message: &str| v1::Exemplar {
        site,
        at_unix_ms: at(second).0,
        status: 502,
        path: path.into(),
        message: Some(message.into()),
        ..v1::Exemplar::default()
    };
    let service = |second: i64, state: &str, n: u32| v1::ServiceState {
        unit: "php8.2-fpm.service".into(),
        state: state.into(),
        at_unix_ms: at(second).0,
        n_restarts: Some(n),
        result: "signal".into(),
        ..v1::ServiceState::default()
    };
    let tick = |second: i64, value: i64| v1::Tick {
        at_unix_ms: at(second).0,
        series: vec![0],
        value: vec![value],
    };
    let line = v1::LogLine {
        source: "php_slow".into(),
        message: "slow: /srv/a/wp-content/plugins/slider/q.php:9".into(),
        at_unix_ms: at(70).0,
        ..v1::LogLine::default()
    };
    v1::BatchBody {
        sites: vec![site("a.example"), site("b.example")],
        seconds: vec![
            second(0, -10, &[502], &[1000]),
            second(0, 10, &[200, 502, counter::CRAWLER], &[5, 2, 1]),
            second(0, 70, &[504], &[1]),
            second(0, 75, &[503, counter::GATEWAY_503], &[4, 3]),
            second(1, 3700, &[200, 503], &[7, 1]),
            second(1, 7200, &[502], &[1000]),
        ],
        exemplars: vec![
            exemplar(
                0,
                10,
                "/wp-content/plugins/slider/x.php",
                "timed out in wp-content/plugins/slider/y",
            ),
            exemplar(0, 70, "/", ""),
            exemplar(0, -10, "/wp-content/plugins/before/x", ""),
        ],
        series: vec![v1::Series { metric: "system.cpu.steal".into(), attribute: String::new() }],
        ticks: vec![tick(5, 0), tick(65, 2000), tick(3700, 1000)],
        services: vec![
            service(20, "active", 0),
            service(50, "failed", 6),
            service(60, "active", 7),
        ],
        log_lines: vec![line],
        ..v1::BatchBody::default()
    }
}

fn transition(sites: Vec<(SiteId, UnixMillis, Option<UnixMillis>)>) -> Transition {
    Transition {
        event: TransitionEvent::Open,
        at: at(100),
        key: "gateway_errors:site:web-1/a.example".into(),
        rev: 1,
        sites,
        incident: samples::incident(),
        servers: vec![(ServerId(2), at(30), None)],
        notify: None,
    }
}

async fn filled() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    crate::store::tests::enrol(&store, 2).await;
    store.append(batch(1, 1, &body())).await.unwrap().await.unwrap().unwrap();
    let spells = vec![(SiteId(1), at(10), Some(at(75))), (SiteId(1), at(7300), None)];
    let opened = transition(spells);
    store.write(move |tx| incidents::commit(tx, &[opened], b"cases", 1)).await.unwrap();
    (dir, store)
}

/// What both reports are made of.
async fn gathered(store: &Store, ask: Ask) -> (outage_input::Input, noise_input::Input, Notes) {
    let read = move |history: &History<'_>| {
        let members: Members = members(history, &ask)?;
        let mut steps = Vec::new();
        let outage = outage::outage(history, &ask, &members, &mut |step| steps.push(step))?;
        assert!(steps.iter().all(|step| step.n_done <= step.n) && !steps.is_empty());
        let noise = noise::noise(history, &ask, &members, &mut |_| ())?;
        Ok((outage, noise))
    };
    let told = store.history(Limits::default(), read).await.unwrap();
    (told.value.0, told.value.1, told.notes)
}

use crate::report::noise as noise_input;
use crate::report::outage as outage_input;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_gathered_from_batches_and_from_what_is_packed_and_summed_up() {
    let (_dir, store) = filled().await;
    let (outage, noise, notes) = gathered(&store, ask()).await;
    assert_eq!(notes, Notes::default());
    let a = &outage.sites[&SiteId(1)];
    assert_eq!((a.name.as_str(), a.owner.as_deref()), ("a.example", Some("alice")));
    assert_eq!((a.n_requests, a.n_errors, a.n_crawler, a.n_bad_minutes), (12, 6, 1, 2));
    assert_eq!((a.hours, a.since), (Some((START, START)), Some(at(7190))));
    let b = &outage.sites[&SiteId(2)];
    assert_eq!((b.n_requests, b.n_errors, b.n_bad_minutes), (8, 0, 1));
    assert_eq!((&b.owner, b.hours), (&None, Some((START + 3600, START + 3600))));

    let spell = &outage.spells[..];
    assert_eq!(spell.len(), 1, "the other one begins after the report: {spell:?}");
    assert_eq!((spell[0].site, spell[0].since, spell[0].until), (SiteId(1), at(10), Some(at(75))));
    assert_eq!((outage.down.len(), outage.down[0].server), (1, ServerId(2)));
    let happened = &outage.incidents[&samples::incident().id];
    assert_eq!((happened.cause.as_str(), happened.n_errors), ("overload", 987));
    assert!(happened.why.as_ref().is_some_and(|why| why.contains("pm.max_children")));

    let slider = Part { kind: "plugin", name: "slider".into() };
    let named = &noise.parts[&slider];
    // One of the two that were kept whole names it, of six.
    assert_eq!((named.n_errors, named.n_lines, noise.n_errors_told), (3.0, 1, 6));
    assert_eq!(named.sites, BTreeSet::from([SiteId(1)]));
    assert_eq!(noise.parts.len(), 1, "what was before the report is not in it");
    let unit = (ServerId(1), "php8.2-fpm.service".to_owned());
    let restarts = noise.services[&unit].restarts();
    assert_eq!((restarts.n_restarts, restarts.n_failed, restarts.n_changes), (7, 1, 2));
    let steal = &noise.steal[&ServerId(1)];
    assert_eq!((steal.n_minutes(), steal.max()), (3, 0.2));
    assert_eq!(steal.share_above(0.05), Some(2.0 / 3.0));

    let keeper = Keeper::new(
        store.clone(),
        StoreConfig::default(),
        RetentionConfig::default(),
        CancellationToken::new(),
    );
    let later = UnixMillis(at(0).0 + 3 * 86_400_000);
    let upto = |tx: &crate::store::WriteTx<'_>| incidents::commit(tx, &[], b"cases", 9);
    store.write(upto).await.unwrap();
    keeper.pass(later).await.unwrap();
    let (packed, packed_noise, notes) = gathered(&store, ask()).await;
    assert_eq!(notes, Notes::default());
    assert_eq!(packed, outage);
    let ours = noise_input::Input { events_from: None, ..packed_noise };
    assert_eq!(ours, noise_input::Input { events_from: None, ..noise });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_for_a_packed_hour_is_added_once() {
    let (_dir, store) = filled().await;
    let upto = |tx: &crate::store::WriteTx<'_>| incidents::commit(tx, &[], b"cases", 9);
    store.write(upto).await.unwrap();
    let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
    let keeper = Keeper::new(store.clone(), pace, retention, CancellationToken::new());
    keeper.pass(UnixMillis(at(0).0 + 3 * 86_400_000)).await.unwrap();
    let (before, noise, _) = gathered(&store, ask()).await;
    store.append(batch(1, 2, &body())).await.unwrap().await.unwrap().unwrap();
    let (after, late_noise, notes) = gathered(&store, ask()).await;
    assert_eq!(notes, Notes::default());
    let (a, late) = (&before.sites[&SiteId(1)], &after.sites[&SiteId(1)]);
    assert_eq!((late.n_requests, late.n_errors), (2 * a.n_requests, 2 * a.n_errors));
    assert_eq!((late.n_crawler, late.n_bad_minutes), (2 * a.n_crawler, a.n_bad_minutes));
    assert_eq!(late_noise.n_errors_told, 2 * noise.n_errors_told);
    assert_eq!(late_noise.services, noise.services, "states said again are the same states");
    assert_eq!(late_noise.steal[&ServerId(1)].n_minutes(), 3, "and so are samples");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_errors_name_a_plugin_does_not_fall_when_their_hour_is_packed() {
    let (_dir, store) = filled().await;
    let exemplar = |n: i64, signal| v1::Exemplar {
        site: 1,
        at_unix_ms: at(100 + n / 5).0,
        status: 502,
        path: if n % 3 == 0 { "/wp-content/plugins/shop/x.php" } else { "/" }.into(),
        signal,
        ..v1::Exemplar::default()
    };
    let seconds = (0..20).map(|n| v1::SiteSecond {
        site: 1,
        second: START + 100 + n,
        status: vec![502],
        count: vec![20],
    });
    let of_reset = v1::Signal::Reset.into();
    let body = v1::BatchBody {
        sites: vec![site("a.example"), site("b.example")],
        seconds: seconds.collect(),
        exemplars: (0..100).map(|n| exemplar(n, 0)).chain([exemplar(3, of_reset)]).collect(),
        ..v1::BatchBody::default()
    };
    store.append(batch(1, 2, &body)).await.unwrap().await.unwrap().unwrap();
    let shop = Part { kind: "plugin", name: "shop".into() };
    let (_, hot, _) = gathered(&store, ask()).await;
    // Of one signal 20 are kept, of which 7 name it, and of the other the only one.
    assert!((hot.parts[&shop].n_errors - 400.0 * 8.0 / 21.0).abs() < 1e-9, "{:?}", hot.parts);
    assert_eq!(hot.n_errors_told, 406);
    let upto = |tx: &crate::store::WriteTx<'_>| incidents::commit(tx, &[], b"cases", 9);
    store.write(upto).await.unwrap();
    let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
    let keeper = Keeper::new(store.clone(), pace, retention, CancellationToken::new());
    keeper.pass(UnixMillis(at(0).0 + 3 * 86_400_000)).await.unwrap();
    let (_, packed, _) = gathered(&store, ask()).await;
    assert_eq!((packed.parts, packed.n_errors_told), (hot.parts, hot.n_errors_told));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_are_gathered_and_what_is_not_theirs_is_not_told() {
    let (_dir, store) = filled().await;
    let ask = Ask { server: Some("web-2".into()), ..ask() };
    let (outage, noise, _) = gathered(&store, ask).await;
    assert_eq!(outage.servers.len(), 1);
    assert!(outage.sites.is_empty() && outage.spells.is_empty());
    assert_eq!(outage.down.len(), 1, "it was in the incident as a whole");
    assert!(noise.parts.is_empty() && noise.services.is_empty() && noise.steal.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_that_cannot_be_read_is_told_all_the_same() {
    let (_dir, store) = filled().await;
    let broken = |tx: &crate::store::WriteTx<'_>| {
        tx.execute("UPDATE incident SET body = '{}'", []).map(drop)
    };
    store.write(broken).await.unwrap();
    let (outage, ..) = gathered(&store, ask()).await;
    let happened = outage.incidents.values().next().unwrap();
    assert_eq!((happened.kind.as_str(), happened.cause.as_str()), ("unreadable", "unknown"));
    assert_eq!(happened.started, samples::incident().started_at);
    assert_eq!(outage.spells.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_heard_until_its_last_word() {
    let (_dir, store) = filled().await;
    for (state, last_seen, now, want) in [
        ("up", 7100, 7200, None),
        ("up", 5000, 7200, Some(at(5000))),
        ("goodbye", 7100, 7200, Some(at(7100))),
    ] {
        let file = move |tx: &crate::store::WriteTx<'_>| {
            let set = "UPDATE server SET state = ?1, last_seen = ?2";
            tx.execute(set, rusqlite::params![state, at(last_seen).0]).map(drop)
        };
        store.write(file).await.unwrap();
        let (outage, ..) = gathered(&store, Ask { now: at(now), ..ask() }).await;
        assert_eq!(outage.servers[&ServerId(1)].heard_until, want, "{state} {last_seen}");
    }
}
