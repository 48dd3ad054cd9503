//! Objects that several tests need.

use wire::UnixMillis;

use crate::model::{
    Action, Affected, Alternative, Cause, ChangeBefore, Evidence, Incident, Moment, Place,
};

/// When the sample incident began: 2026-11-20T12:01:07Z.
pub(crate) const START: UnixMillis = UnixMillis(1_795_176_067_000);

/// The incident of the contract: a pool exhausted after a package update.
pub(crate) fn incident() -> Incident {
    let later = |s: i64| UnixMillis(START.0 + s * 1000);
    Incident {
        id: "01JD4Z8QK0A1B2C3D4E5F6G7H8".into(),
        kind: "gateway_errors".into(),
        state: "open".into(),
        severity: "critical".into(),
        scope: "server".into(),
        place: Place {
            server: Some("web-07".into()),
            pool: Some("www".into()),
            members: vec!["web-07".into()],
            sites: vec!["a.example".into(), "b.example".into()],
            ..Place::default()
        },
        title:
            "37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www is exhausted"
                .into(),
        started_at: START,
        detected_at: later(2),
        resolved_at: None,
        updated_at: later(30),
        retroactive: false,
        affected: Affected {
            n_sites: 37,
            n_sites_active: 41,
            n_servers: 1,
            n_requests: 1234,
            n_gateway_errors: 987,
            n_502: 987,
            n_503: 0,
            n_504: 0,
            n_crawler: 12,
        },
        cause: Cause {
            class: "overload".into(),
            confidence: 0.97,
            evidence: vec![Evidence {
                kind: "log".into(),
                text: "[pool www] server reached pm.max_children setting (5), consider raising it"
                    .into(),
                at: later(-1),
                server: Some("web-07".into()),
                weight: 3.1,
            }],
            alternatives: vec![Alternative { class: "oom".into(), confidence: 0.02 }],
        },
        change: Some(ChangeBefore {
            kind: "package".into(),
            text: "php8.2-fpm 8.2.7 to 8.2.29".into(),
            at: later(-65),
            score: 0.8,
        }),
        actions: vec![
            Action {
                text: "See whether the pool is up and how busy it is".into(),
                command: Some("systemctl status php8.2-fpm".into()),
            },
            Action { text: "Ask the owner of the sites about slow requests".into(), command: None },
        ],
        parent: None,
        children: Vec::new(),
        acked_by: None,
        silenced: false,
        timeline: vec![Moment { at: later(2), what: "opened".into() }],
    }
}
