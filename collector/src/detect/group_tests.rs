//! Groups of servers on simulated time: what is one outage of many servers, and what is not.

use wire::UnixMillis;

use super::Engine;
use super::script::{Def, EAGAIN, Fate, NOON, Played, REFUSED, RESET, Script, at, is_in};
use crate::config::DetectConfig;
use crate::model::{Incident, NotifyEvent, TransitionEvent};

pub(super) const TIMED_OUT: &str =
    "upstream timed out (110: Connection timed out) while connecting to upstream";

/// Ten servers a hypervisor, twenty a rack, two regions, two images.
fn usual(n: i64) -> String {
    let (hypervisor, rack) = ((n - 1) / 10 + 1, (n - 1) / 20 + 1);
    let (region, image) = (["eu", "us"][usize::from(rack % 2 == 0)], n % 2);
    format!("hypervisor=hv-{hypervisor} rack=r{rack} region={region} image=i{image}")
}

fn seconds(at: UnixMillis) -> f64 {
    (at.0 - NOON) as f64 / 1000.0
}

/// "hypervisor=hv-1", "image=i1 region=eu", or "" for a group that no label names.
fn label(incident: &Incident) -> String {
    let place = &incident.place;
    match (&place.label, &place.value, &place.labels) {
        (Some(label), Some(value), None) => format!("{label}={value}"),
        (None, None, Some(pair)) => {
            let words: Vec<_> = pair.iter().map(|(k, v)| format!("{k}={v}")).collect();
            words.join(" ")
        }
        _ => String::new(),
    }
}

/// Scope and label, servers and failing ones, of every incident that somebody would see.
fn seen(played: &Played) -> Vec<(String, String, usize, u64)> {
    let mut last = played.last();
    last.sort_by_key(|incident| (incident.started_at, incident.id.clone()));
    let seen = |incident: &Incident| {
        let n_servers = incident.affected.n_servers;
        (incident.scope.clone(), label(incident), incident.place.members.len(), n_servers)
    };
    last.iter().map(seen).collect()
}

/// As `seen` of one group alone.
fn group(label: &str, n: usize, n_failing: u64) -> (String, String, usize, u64) {
    ("group".to_owned(), label.to_owned(), n, n_failing)
}

fn n_told(played: &Played, event: NotifyEvent) -> usize {
    played.told().iter().filter(|(told, _)| *told == event).count()
}

/// Sites of servers that `hit` names fail from second 20 to 50.
fn hit(script: Script, rate: u32, hits: impl Fn(&Def) -> bool) -> Played {
    let script = script.run(0, 110, rate, |def, second| {
        let fails = (20..50).contains(&second) && hits(def);
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    script.play(110)
}

#[test]
fn servers_of_one_hypervisor_that_fail_together_are_one_incident_told_once() {
    let played =
        hit(Script::default().fleet(40, 4, usual), 4, |def| (11..=20).contains(&def.server));
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 10, 10)]);
    let incident = played.only();
    assert_eq!(
        (incident.kind.as_str(), incident.severity.as_str()),
        ("gateway_errors", "critical")
    );
    assert_eq!((incident.affected.n_sites, incident.affected.n_sites_active), (40, 40));
    assert_eq!(incident.affected.n_502, 10 * 4 * 4 * 30);
    assert_eq!(incident.place.members.first().map(String::as_str), Some("web-011"));
    assert_eq!((incident.place.server.as_ref(), incident.state.as_str()), (None, "resolved"));
    assert_eq!(incident.started_at.0, at(20));
    assert!(seconds(incident.detected_at) <= 22.0, "{}", incident.detected_at);
    let told = played.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].0 == NotifyEvent::Opened && told[0].1 <= 23.5, "{told:?}");
    let mut merged = played.transitions.iter().filter(|t| t.event == TransitionEvent::Merge);
    assert!(merged.all(|t| t.notify.is_none()));
}

#[test]
fn three_servers_beside_healthy_ones_are_a_group_and_two_hundred_as_well() {
    let few = |n: i64| format!("hypervisor=hv-{}", (n - 1) / 3 + 1);
    let played = hit(Script::default().fleet(12, 3, few), 3, |def| (4..=6).contains(&def.server));
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 3, 3)]);
    let many = |n: i64| format!("network={} plan=p{}", if n <= 200 { "a" } else { "b" }, n % 3);
    let script = Script::default().fleet(230, 1, many).run(0, 30, 1, |def, second| {
        let fails = second >= 10 && def.server <= 200;
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(28);
    assert_eq!(seen(&played), [group("network=a", 200, 200)]);
    assert_eq!(n_told(&played, NotifyEvent::Opened), 1);
}

#[test]
fn a_group_in_which_two_thirds_fail_claims_all_its_servers_and_counts_those_that_fail() {
    let played = hit(Script::default().fleet(40, 4, usual), 4, |def| {
        (11..=20).contains(&def.server) && def.server % 3 != 0
    });
    // 12, 15 and 18 answer well.
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 10, 7)]);
    let title = played.only().title;
    assert!(title.contains("7 of 10 servers of hypervisor hv-2"), "{title}");
}

#[test]
fn a_group_with_little_traffic_is_found_by_what_little_there_is() {
    let script = Script::default().fleet(30, 2, |n| format!("rack=r{}", (n - 1) / 10));
    let script = script.slowly(0, 200, 8, |def, second| {
        let fails = (40..200).contains(&second) && (11..=20).contains(&def.server);
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(140);
    let seen = seen(&played);
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((&*seen[0].0, &*seen[0].1, seen[0].2), ("group", "rack=r1", 10));
    assert!(seen[0].3 >= 9, "{seen:?}");
}

#[test]
fn a_pair_of_labels_is_the_scope_where_neither_value_alone_is() {
    let labels = |n: i64| {
        let (region, image) =
            (["eu", "us"][(n % 2) as usize], ["deb", "alma"][(n / 2 % 2) as usize]);
        format!("region={region} image={image} hypervisor=hv-{n}")
    };
    // Servers 4, 8, 12, ... are in the EU with Debian.
    let played = hit(Script::default().fleet(40, 3, labels), 3, |def| def.server % 4 == 0);
    assert_eq!(seen(&played), [group("image=deb region=eu", 10, 10)]);
    let title = played.only().title;
    assert!(title.contains("all 10 servers of image deb and region eu"), "{title}");
}

#[test]
fn all_servers_are_a_group_that_no_label_names() {
    let played = hit(Script::default().fleet(12, 3, |n| format!("rack=r{}", n % 3)), 3, |_| true);
    assert_eq!(seen(&played), [group("", 12, 12)]);
    let incident = played.only();
    assert_eq!((incident.place.label, incident.place.labels), (None, None));
    assert!(incident.title.contains("all 12 servers of the fleet"), "{}", incident.title);
}

#[test]
fn two_groups_that_fail_at_once_are_two_incidents() {
    let script = Script::default().fleet(60, 3, usual).run(0, 70, 3, |def, second| {
        match (def.server, second) {
            (11..=20, 20..70) => Fate::Fail(502, REFUSED),
            (31..=40, 22..70) => Fate::Fail(504, TIMED_OUT),
            _ => Fate::Ok,
        }
    });
    let played = script.play(60);
    let want = [group("hypervisor=hv-2", 10, 10), group("hypervisor=hv-4", 10, 10)];
    assert_eq!(seen(&played), want);
    assert_eq!(n_told(&played, NotifyEvent::Opened), 2);
}

#[test]
fn groups_on_overlapping_labels_stay_apart() {
    // A rack of twenty, and the servers of one image in the other region.
    let script = Script::default().fleet(80, 2, usual).run(0, 70, 3, |def, second| {
        let us = matches!(def.server, 21..=40 | 61..=80);
        match () {
            () if (20..70).contains(&second) && (1..=20).contains(&def.server) => {
                Fate::Fail(502, REFUSED)
            }
            () if (21..70).contains(&second) && us && def.server % 2 == 0 => {
                Fate::Fail(504, TIMED_OUT)
            }
            () => Fate::Ok,
        }
    });
    let played = script.play(60);
    let want = [group("rack=r1", 20, 20), group("image=i0 region=us", 20, 20)];
    assert_eq!(seen(&played), want);
}

#[test]
fn a_server_of_a_failing_group_with_another_fault_since_before_stays_an_incident_of_its_own() {
    let script = Script::default().fleet(40, 4, usual).run(0, 90, 4, |def, second| {
        match (def.server, second) {
            (15, 10..90) => Fate::Fail(504, TIMED_OUT),
            (11..=20, 40..60) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        }
    });
    let played = script.play(85);
    let seen = seen(&played);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!((&*seen[0].0, seen[0].3), ("server", 1));
    assert_eq!(seen[1], group("hypervisor=hv-2", 10, 9));
}

#[test]
fn suppress_a_fault_on_a_well_server_of_an_open_group_is_a_child_told_only_when_it_outlives_it() {
    // A rack fails; on server 3 of it, which is well, one site of many fails too, and longer.
    let script = Script::default().fleet(40, 8, usual).run(0, 200, 4, |def, second| {
        match (def.server, second) {
            (3, 30..200) if def.name.ends_with("17.test") => Fate::Fail(502, RESET),
            (3 | 4, _) => Fate::Ok,
            (1..=10, 20..60) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        }
    });
    let played = script.play(180);
    let seen = seen(&played);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[0], group("hypervisor=hv-1", 10, 8));
    assert_eq!(seen[1].0, "site");
    let opened = played.transitions.iter().find(|t| t.incident.scope == "site").expect("it opened");
    assert!(opened.incident.parent.is_some() && opened.notify.is_none(), "{opened:?}");
    let parent = played.last().into_iter().find(|i| i.scope == "group").expect("it is there");
    assert_eq!(parent.children.first(), Some(&opened.incident.id));
    let told: Vec<_> = played.transitions.iter().filter(|t| t.notify.is_some()).collect();
    let told: Vec<_> = told.iter().map(|t| (t.incident.scope.as_str(), seconds(t.at))).collect();
    assert_eq!(
        told.iter().map(|(scope, _)| *scope).collect::<Vec<_>>(),
        ["group", "group", "site"]
    );
    let resolved = seconds(parent.resolved_at.expect("it resolved"));
    assert!((20.0..22.0).contains(&(told[2].1 - resolved)), "{told:?}");
}

/// Ten servers of hypervisor hv-2 fail one by one, one each four seconds from second 20.
fn rollout(labels: impl Fn(i64) -> String, changes: bool) -> Script {
    let mut script = Script::default().fleet(40, 3, labels);
    let starts = |server: i64| 20 + (server - 11) * 4;
    if changes {
        for server in 11..=20 {
            let what = "php8.2-fpm 8.2.7 to 8.2.29";
            script = script.change(starts(server) - 3, server, "package", what);
        }
    }
    script.run(0, 130, 3, move |def, second| {
        let fails = (11..=20).contains(&def.server) && (starts(def.server)..90).contains(&second);
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    })
}

#[test]
fn a_rollout_of_forty_seconds_on_one_hypervisor_is_one_incident() {
    let played = rollout(usual, false).play(130);
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 10, 10)]);
    assert_eq!(played.only().started_at.0, at(20));
    // The first servers may be told before there are three; nobody hears more than that.
    assert!(n_told(&played, NotifyEvent::Opened) <= 2, "{:?}", played.told());
    let group = played.transitions.iter().find(|t| t.incident.scope == "group").expect("a group");
    assert!(seconds(group.at) <= 34.0, "{}", seconds(group.at));
}

/// The later ones fail one after the other, each before the minute of the one before is forgotten.
#[test]
fn a_group_that_doubles_is_told_once_more() {
    let run = |n: i64| {
        let script = Script::default().fleet(30, 3, usual).run(0, 140, 3, |def, second| {
            let first = if def.server <= 3 { 20 } else { 50 + 6 * (def.server - 3) };
            let fails = def.server <= n && second >= first;
            if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let played = script.play(130);
        assert_eq!(played.last().len(), 1, "{:?}", seen(&played));
        assert_eq!(n_told(&played, NotifyEvent::Opened), 1, "{:?}", played.told());
        let updates = played.told().into_iter().filter(|(told, _)| *told == NotifyEvent::Updated);
        updates.filter(|(_, at)| *at > 40.0).count()
    };
    assert_eq!([3, 5, 6].map(run), [0, 0, 1]);
}

/// Pools of two more servers fail, and a little later the rest of them.
#[test]
fn a_group_with_twice_the_sites_has_grown_though_its_servers_are_fewer_than_twice_as_many() {
    let run = |n_www: usize| {
        let mut script = Script::default();
        for n in 1..=5 {
            let pools =
                if n <= 3 { [("www", 3), ("shop", 1)] } else { [("www", n_www), ("shop", 1)] };
            script = script.server(&format!("web-{n:02}"), &pools).labelled("hypervisor=hv-1");
        }
        for n in 6..=12 {
            script =
                script.server(&format!("web-{n:02}"), &[("www", 3)]).labelled("hypervisor=hv-2");
        }
        let script = script.run(0, 140, 3, |def, second| {
            let first = match def.server {
                ..=3 => 20,
                4 | 5 if is_in(def, "www") => 60,
                4 | 5 => 80,
                _ => i64::MAX,
            };
            if second >= first { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let played = script.play(130);
        let updates = played.told().into_iter().filter(|(told, _)| *told == NotifyEvent::Updated);
        updates.filter(|(_, at)| *at > 40.0).count()
    };
    // Twelve are told; with five each they are 24 of five servers, not twice as many servers.
    assert_eq!([4, 5].map(run), [0, 1]);
}

#[test]
fn a_change_cohort_that_no_label_names_is_a_group_with_its_members_listed() {
    let nothing = |_: i64| String::new();
    let played = rollout(nothing, true).play(130);
    assert_eq!(seen(&played), [group("", 10, 10)]);
    let incident = played.only();
    let members: Vec<String> = (11..=20).map(|n| format!("web-{n:03}")).collect();
    assert_eq!(incident.place.members, members);
    let named = "all 10 servers with the package change php8.2-fpm 8.2.7 to 8.2.29";
    assert!(incident.title.contains(named), "{}", incident.title);
    assert!(n_told(&played, NotifyEvent::Opened) <= 2, "{:?}", played.told());
}

#[test]
fn a_label_is_named_before_a_change_where_both_explain_the_same() {
    let played = rollout(usual, true).play(130);
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 10, 10)]);
}

#[test]
fn open_groups_first_two_rollouts_in_one_region_do_not_fuse() {
    let script = Script::default().fleet(80, 3, usual).run(0, 120, 3, |def, second| {
        let (n, first) = match def.server {
            11..=20 => (def.server - 11, 20),
            51..=60 => (def.server - 51, 22),
            _ => return Fate::Ok,
        };
        let fails = (first + n * 3..100).contains(&second);
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(70);
    let want = [group("hypervisor=hv-2", 10, 10), group("hypervisor=hv-6", 10, 10)];
    assert_eq!(seen(&played), want);
}

#[test]
fn three_stray_failures_on_quiet_servers_that_share_a_label_are_nothing() {
    let script = Script::default().fleet(30, 3, usual).slowly(0, 600, 20, |def, second| {
        let stray = (11..=13).contains(&def.server) && (300..320).contains(&second);
        if stray && def.site.0 % 3 == 0 { Fate::Fail(502, RESET) } else { Fate::Ok }
    });
    assert_eq!(seen(&script.play(600)), []);
}

#[test]
fn a_chronic_site_does_not_keep_a_group_open() {
    let script = Script::default().fleet(30, 4, usual).run(0, 300, 5, |def, second| {
        match (def.server, second) {
            (11..=20, 20..60) => Fate::Fail(502, REFUSED),
            // One site of one of these servers went on failing a little, for good.
            (11, 60..300) if def.site.0 % 4 == 0 => Fate::Partly(2, 502, RESET),
            _ => Fate::Ok,
        }
    });
    let played = script.play(200);
    let group = played.last().into_iter().find(|i| i.scope == "group").expect("it was a group");
    assert_eq!(group.state, "resolved");
    let resolved = seconds(group.resolved_at.expect("it resolved"));
    assert!(resolved < 110.0, "{resolved}");
}

#[test]
fn escalate_from_site_to_pool_to_server_to_group_keeps_the_oldest_id() {
    let mut script = Script::default();
    for n in 1..=30 {
        script = script.server(&format!("web-{n:03}"), &[("www", 4), ("shop", 3)]);
        script = script.labelled(&usual(n));
    }
    let script = script.run(0, 120, 5, |def, second| {
        let from = match (def.server, def.pool.as_deref(), def.site.0) {
            (11, _, 71) => 20,
            (11, Some("www"), _) => 26,
            (11, ..) => 32,
            (12..=20, ..) => 40,
            _ => return Fate::Ok,
        };
        if second >= from { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(80);
    let first = &played.transitions[0];
    assert_eq!((first.event, first.incident.scope.as_str()), (TransitionEvent::Open, "site"));
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 10, 10)]);
    let incident = played.only();
    assert_eq!((&incident.id, incident.started_at.0), (&first.incident.id, at(20)));
    let of_it = played.transitions.iter().filter(|t| t.incident.id == incident.id);
    let scopes: Vec<_> = of_it
        .filter(|t| t.event == TransitionEvent::Escalate)
        .map(|t| t.incident.scope.as_str())
        .collect();
    assert_eq!(scopes, ["pool", "server", "group"]);
    assert_eq!(n_told(&played, NotifyEvent::Opened), 1, "{:?}", played.told());
    assert!(
        incident
            .timeline
            .iter()
            .any(|m| m.what == "widened from server web-011 to group hypervisor=hv-2")
    );
}

#[test]
fn escalate_an_incident_of_long_ago_is_another_story() {
    let script = Script::default().fleet(30, 4, usual).run(0, 760, 2, |def, second| {
        match (def.server, second) {
            (13, 20..760) if def.site.0 == 50 => Fate::Fail(502, REFUSED),
            (11..=20, 700..760) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        }
    });
    let played = script.play(740);
    let seen = seen(&played);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!((&*seen[0].0, seen[1].clone()), ("site", group("hypervisor=hv-2", 10, 10)));
    let group = played.last().into_iter().find(|i| i.scope == "group").expect("it is there");
    assert_eq!(group.started_at.0, at(700));
}

#[test]
fn narrow_a_group_becomes_the_one_inside_that_still_fails() {
    // A rack fails, then only one of its hypervisors.
    let script = Script::default().fleet(80, 4, usual).run(0, 160, 8, |def, second| {
        match (def.server, second) {
            (1..=10, 20..160) | (11..=20, 20..30) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        }
    });
    let played = script.play(120);
    assert_eq!(seen(&played), [group("hypervisor=hv-1", 10, 10)]);
    assert_eq!(played.events(TransitionEvent::Narrow).len(), 1);
    assert_eq!(n_told(&played, NotifyEvent::Opened), 1);
}

#[test]
fn reopen_the_same_group_keeps_its_id_and_tells_nobody_again() {
    let script = Script::default().fleet(30, 3, usual).run(0, 300, 5, |def, second| {
        let fails = (20..40).contains(&second) || (100..120).contains(&second);
        if fails && (11..=20).contains(&def.server) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(260);
    assert_eq!(seen(&played), [group("hypervisor=hv-2", 10, 10)]);
    assert_eq!(n_told(&played, NotifyEvent::Opened), 1, "{:?}", played.told());
    let reopened = played.transitions.iter().filter(|t| t.event == TransitionEvent::Reopen);
    assert!(reopened.count() >= 1);
    assert_eq!(played.only().affected.n_502, 10 * 3 * 5 * 40);
}

#[test]
fn reopen_a_group_that_shares_half_of_the_failing_servers_has_the_new_scope() {
    // The rack fails, and a minute later one of its hypervisors alone.
    let script = Script::default().fleet(80, 3, usual).run(0, 200, 5, |def, second| {
        match (def.server, second) {
            (1..=20, 20..40) | (1..=10, 100..200) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        }
    });
    let played = script.play(150);
    assert_eq!(seen(&played), [group("hypervisor=hv-1", 10, 10)]);
}

#[test]
fn reopen_nothing_but_a_group_revives_a_group() {
    let script = Script::default().fleet(40, 4, usual).run(0, 200, 5, |def, second| {
        match (def.server, second) {
            (11..=20, 20..40) => Fate::Fail(502, REFUSED),
            (13, 100..200) => Fate::Fail(504, EAGAIN),
            _ => Fate::Ok,
        }
    });
    let played = script.play(150);
    let seen = seen(&played);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(seen[0], group("hypervisor=hv-2", 10, 10));
    assert_eq!((&*seen[1].0, seen[1].3), ("server", 1));
}

#[test]
fn one_backend_behind_four_servers_is_a_pool_and_not_a_group() {
    let mut script = Script::default();
    for n in 1..=12 {
        let pools: &[(&str, usize)] = if n <= 4 { &[("10.0.0.9:8080", 4)] } else { &[("www", 4)] };
        let rack = (n - 1) / 4;
        script = script.server(&format!("web-{n:03}"), pools).labelled(&format!("rack=r{rack}"));
    }
    let played = hit(script, 4, |def| def.pool.is_none());
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.affected.n_servers), ("pool", 4));
    assert_eq!(incident.place.pool.as_deref(), Some("10.0.0.9:8080"));
}

#[test]
fn a_group_whose_servers_share_a_backend_with_healthy_ones_is_the_group() {
    let mut script = Script::default();
    for n in 1..=12 {
        let rack = (n - 1) / 4;
        script = script.server(&format!("web-{n:03}"), &[("10.0.0.9:8080", 4)]);
        script = script.labelled(&format!("rack=r{rack}"));
    }
    let played = hit(script, 4, |def| def.server <= 4);
    assert_eq!(seen(&played), [group("rack=r0", 4, 4)]);
}

#[test]
fn two_servers_that_share_a_label_are_no_group() {
    let played = hit(Script::default().fleet(2, 4, |_| "rack=r1".to_owned()), 4, |_| true);
    let seen = seen(&played);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|(scope, ..)| scope == "server"), "{seen:?}");
}

#[test]
fn why_a_group_was_taken_and_others_were_not_is_in_the_trail() {
    let script = Script::default().fleet(40, 3, usual).run(0, 40, 3, |def, second| {
        let fails = second >= 20 && (11..=20).contains(&def.server);
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let mut engine = Engine::new(&DetectConfig::default());
    engine.explain();
    let mut trail = Vec::new();
    for (arrived, record) in script.in_order() {
        engine.advance(UnixMillis(arrived - 1));
        engine.fold(UnixMillis(arrived), &record);
        trail.append(&mut engine.trail());
    }
    let last = |scope: &str| trail.iter().rev().find(|weighed| weighed.scope == scope);
    let taken = last("group:hypervisor=hv-2").expect("it was weighed");
    assert_eq!((taken.n_failing, taken.n_well, &taken.rejected), (10, 0, &None));
    assert!(taken.score > taken.needed, "{taken:?}");
    let left = last("group:rack=r1").expect("it was weighed");
    assert_eq!(left.rejected.as_deref(), Some("better explained: hypervisor=hv-2"), "{left:?}");
    let all = last("group:all").expect("it was weighed");
    let why = all.rejected.as_deref().expect("it was not taken");
    assert!(why.contains("needed") && all.n_well == 30, "{all:?}");
    assert!(last("server:web-011").is_some_and(|weighed| weighed.rejected.is_none()));
    let site = last("site:web-011/shop31.test");
    assert!(site.is_none_or(|weighed| weighed.rejected.is_some()), "{site:?}");
}

#[test]
fn wait_two_seconds_from_server_scope_on_while_two_other_servers_turn_suspect() {
    let told = |n: i64| {
        let script =
            Script::default().fleet(12, 4, |_| String::new()).run(0, 40, 8, |def, second| {
                let fails = second >= 20 && def.server <= n;
                if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
            });
        script.play(40).told()
    };
    let (alone, three) = (told(1), told(3));
    assert_eq!((alone.len(), three.len()), (1, 3), "{three:?}");
    let later = three[0].1 - alone[0].1;
    assert!((later - 1.0).abs() < 0.3, "{alone:?}, {three:?}");
}

#[test]
fn split_two_hypervisors_that_looked_like_their_region_are_two_incidents_in_the_end() {
    // At first little is known of the others in the region: they have no traffic.
    let labels = |n: i64| format!("hypervisor=hv-{} region=r{}", (n - 1) / 5, (n - 1) / 20);
    let script = Script::default().fleet(40, 3, labels).run(0, 90, 4, |def, second| {
        match (def.server, second) {
            (1..=5 | 11..=15, 20..90) => Fate::Fail(502, REFUSED),
            (1..=20, 15..24) => Fate::Idle,
            _ => Fate::Ok,
        }
    });
    let played = script.play(60);
    let mut seen = seen(&played);
    seen.sort();
    assert_eq!(seen, [group("hypervisor=hv-0", 5, 5), group("hypervisor=hv-2", 5, 5)]);
    for incident in played.last() {
        assert_eq!(incident.started_at.0, at(20), "{}", incident.title);
    }
}

#[test]
fn merge_two_hypervisors_become_one_incident_when_their_whole_region_fails() {
    let labels = |n: i64| format!("hypervisor=hv-{} region=r{}", (n - 1) / 5, (n - 1) / 20);
    let script = Script::default().fleet(40, 3, labels).run(0, 90, 4, |def, second| {
        match (def.server, second) {
            (1..=5, 20..90) | (11..=15, 22..90) | (1..=20, 40..90) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        }
    });
    let played = script.play(70);
    assert_eq!(seen(&played), [group("region=r0", 20, 20)]);
    let incident = played.only();
    assert_eq!((incident.started_at.0, !incident.children.is_empty()), (at(20), true));
    let merged = played.transitions.iter().filter(|t| t.event == TransitionEvent::Merge);
    let merged: Vec<_> = merged.filter(|t| t.incident.scope == "group").collect();
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].incident.parent.as_ref(), Some(&incident.id));
}

#[test]
fn nothing_is_searched_while_fewer_than_three_servers_are_suspect() {
    let script = Script::default().fleet(30, 2, usual).run(0, 60, 4, |def, second| {
        let fails = second >= 20 && def.server <= 2;
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let mut engine = Engine::new(&DetectConfig::default());
    engine.explain();
    for (arrived, record) in script.in_order() {
        engine.advance(UnixMillis(arrived - 1));
        engine.fold(UnixMillis(arrived), &record);
        let groups = engine.trail().into_iter().filter(|w| w.scope.starts_with("group:")).count();
        assert_eq!((groups, engine.candidates.list().len()), (0, 0));
    }
}
