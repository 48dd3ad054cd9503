//! What is one outage, what is two, and what is none: twins, restarts and strays.

use wire::UnixMillis;

use super::candidates::{Candidate, Candidates};
use super::group::{Rules, Search};
use super::script::{Fate, Played, REFUSED, RESET, Script, at};
use super::server::Server;
use super::{Engine, Fleet};
use crate::config::DetectConfig;
use crate::incident::story::{free_id, group_name, id};
use crate::model::{ServerId, TransitionEvent};

const FPM: &str = "php8.2-fpm.service";

fn titles(played: &Played) -> Vec<String> {
    played.last().into_iter().map(|incident| incident.title).collect()
}

#[test]
fn two_hypervisors_that_fail_one_after_the_other_are_two_ids_and_the_first_keeps_its_own() {
    // Between them their region seemed to fail: its other servers have no traffic.
    let labels = |n: i64| format!("hypervisor=hv-{} region=r{}", (n - 1) / 5, (n - 1) / 20);
    let script = Script::default().fleet(40, 3, labels).run(0, 100, 4, |def, second| {
        match (def.server, second) {
            (1..=5, 20..100) | (11..=15, 40..100) => Fate::Fail(502, REFUSED),
            (1..=20, 15..45) => Fate::Idle,
            _ => Fate::Ok,
        }
    });
    let played = script.play(80);
    let first = played.transitions.first().expect("it opens").incident.id.clone();
    let mut last = played.last();
    last.sort_by_key(|incident| incident.started_at);
    let seen: Vec<_> =
        last.iter().map(|i| (i.place.value.as_deref(), i.started_at.0, i.id == first)).collect();
    let want = [(Some("hv-0"), at(20), true), (Some("hv-2"), at(40), false)];
    assert_eq!(seen, want, "{:?}", titles(&played));
    let widened =
        played.transitions.iter().any(|t| t.incident.place.label.as_deref() == Some("region"));
    assert!(widened, "their region was told for a while: {:?}", titles(&played));
}

#[test]
fn an_incident_whose_kind_scope_and_start_were_taken_has_an_id_of_its_own() {
    let of = |taken: &[String]| {
        free_id("gateway_errors", "group:rack=r1", 5_000, |id| taken.iter().any(|of| of == id))
    };
    let first = id("gateway_errors", "group:rack=r1", 5_000);
    let second = of(std::slice::from_ref(&first));
    let third = of(&[first.clone(), second.clone()]);
    assert_eq!(of(&[]), first);
    assert!(second != first && third != second && third != first, "{first} {second} {third}");
    assert_eq!(second, of(std::slice::from_ref(&first)), "a replay gives the same");
    assert_eq!(first[..10], second[..10], "both begin with their start");
}

#[test]
fn two_groups_that_go_on_are_not_fused_by_a_set_of_just_their_servers() {
    let mut fleet = Fleet::default();
    for n in 0..40 {
        let mut server = Server::new(ServerId(n));
        let (image, region) = (["a", "b", "c", "d"][n as usize / 10], n / 20);
        server.labels.insert("image".to_owned(), image.to_owned());
        server.labels.insert("region".to_owned(), region.to_string());
        fleet.servers.insert(server.id, server);
    }
    let candidates = Candidates::of(&fleet, &["image".to_owned(), "region".to_owned()]);
    let evidence = candidates.evidence(|id| if id.0 < 20 { 12.0 } else { -4.0 });
    let named = |name: &str| {
        let mut list = candidates.list().iter();
        list.find(|c| group_name(&c.group) == name).expect("it is a candidate").clone()
    };
    let found = |open: &[Candidate]| -> Vec<String> {
        let rules = Rules::default();
        let found = Search::new(&candidates, &evidence, &rules).beside(open).run();
        found.iter().map(|group| group_name(&group.group)).collect()
    };
    assert_eq!(found(&[]), ["region=0"]);
    let mut both = found(&[named("image=a"), named("image=b")]);
    both.sort();
    assert_eq!(both, ["image=a", "image=b"]);
}

#[test]
fn a_client_that_tries_again_on_each_of_three_quiet_servers_is_no_group() {
    let labels = |n: i64| format!("rack=r{}", (n - 1) / 8);
    let mut script = Script::default().fleet(24, 2, labels).slowly(0, 300, 60, |_, _| Fate::Ok);
    // One client each tries three times within a second.
    script.only_client = Some(7);
    for (server, second) in [(9, 300), (10, 307), (11, 314), (12, 321)] {
        script = script.run(second, second + 1, 3, |def, _| {
            let stray = def.server == server && def.site.0 % 2 == 0;
            if stray { Fate::Fail(502, RESET) } else { Fate::Idle }
        });
    }
    let played = script.play(360);
    assert!(played.last().is_empty(), "{:?}", titles(&played));
}

#[test]
fn three_servers_that_restart_at_once_as_announced_are_no_group() {
    let labels = |n: i64| format!("hypervisor=hv-{}", (n - 1) / 3);
    let script = Script::default().fleet(12, 6, labels);
    let script = (1..=3).fold(script, |script, n| {
        script.unit(0, n, FPM, "active").unit(20, n, FPM, "reloading").unit(23, n, FPM, "active")
    });
    let script = script.run(0, 60, 1, |def, second| {
        let fails = (20..23).contains(&second) && def.server <= 3;
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(60);
    assert!(played.last().is_empty(), "{:?}", titles(&played));
}

#[test]
fn a_quiet_server_does_not_narrow_to_the_pool_that_is_asked_for_more_often() {
    let script = Script::default().server("web-1", &[("php81", 2), ("php83", 2)]);
    let script = script.run(0, 20, 1, |_, _| Fate::Ok).run(20, 110, 1, |def, second| {
        let asked = def.site.0 <= 2 && second % 3 == 0 || second < 24;
        if asked { Fate::Fail(502, REFUSED) } else { Fate::Idle }
    });
    let played = script.play(110);
    assert_eq!(played.only().scope, "server");
    assert!(played.events(TransitionEvent::Narrow).is_empty(), "{:?}", titles(&played));
}

#[test]
fn with_a_short_quiet_a_new_failure_soon_after_the_end_is_told_at_once() {
    let quiet = wire::units::Span(std::time::Duration::from_secs(2));
    let mut engine = Engine::new(&DetectConfig { quiet, ..DetectConfig::default() });
    let script = Script::default().server("web-1", &[("www", 1)]).run(0, 60, 5, |_, second| {
        let fails = (20..26).contains(&second) || second >= 34;
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let mut transitions = Vec::new();
    for (arrived, record) in script.in_order() {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
    }
    let at_of = |event| transitions.iter().find(|t| t.event == event).map_or(0, |t| t.at.0);
    let (over, again) = (at_of(TransitionEvent::Resolve), at_of(TransitionEvent::Reopen));
    assert!(over > at(26) && over < at(32), "{}", over - at(0));
    assert!(again >= at(34) && again < at(37), "{}", again - at(0));
}
