//! How long the word of an outage waits, and what is told once it is out: one page while it spreads
//! from a pool to a server to a hypervisor, then only growth, a new scope, a worse severity, its end.

use super::script::{Def, Fate, NOON, Played, REFUSED, Script, is_in, two_pools};
use crate::model::NotifyEvent::{self, Opened, Resolved, Updated};
use crate::model::Transition;

fn play(script: Script, until: i64, fails: impl Fn(&Def, i64) -> bool) -> Played {
    let script = script.run(0, until, 5, |def, second| {
        if fails(def, second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    script.play(until - 1)
}

/// Pages of incidents that are no part of another one: event, when, and the scope that it tells: that
/// of the last revision before it was due.
fn pages(played: &Played) -> Vec<(NotifyEvent, f64, String)> {
    let merged = |t: &&Transition| {
        let id = &t.incident.id;
        let last = played.transitions.iter().rev().find(|of| of.incident.id == *id);
        last.is_some_and(|last| last.incident.parent.is_none())
    };
    let transitions = played.transitions.iter().filter(merged).cloned().collect();
    let told = Played { transitions };
    let scope = |at: f64| {
        let before = told.transitions.iter().rev();
        let mut before = before.filter(|t| (t.at.0 - NOON) as f64 / 1000.0 <= at);
        before.next().map_or_else(String::new, |t| t.incident.scope.clone())
    };
    told.told().into_iter().map(|(event, at)| (event, at, scope(at))).collect()
}

/// Twelve servers of two pools each on four hypervisors.
fn hall() -> Script {
    (1..=12).fold(Script::default(), |script, n| {
        let script = script.server(&format!("web-{n:02}"), &[("www", 6), ("shop", 4)]);
        script.labelled(&format!("hypervisor=hv-{}", (n - 1) / 4 + 1))
    })
}

#[test]
fn an_outage_that_goes_from_a_pool_to_its_server_to_its_hypervisor_in_five_seconds_is_one_page() {
    // The pool first, the other pool a second later, then the other servers.
    for (neighbours, until) in [([22, 22, 22], 40), ([22, 23, 23], 40), ([23, 23, 23], 40)] {
        let played = play(hall(), until, |def, second| match def.server {
            1 if is_in(def, "www") => second >= 20,
            1 => second >= 21,
            2..=4 => second >= neighbours[def.server as usize - 2],
            _ => false,
        });
        let pages = pages(&played);
        let [(Opened, at, scope)] = &pages[..] else { panic!("{neighbours:?}: {pages:?}") };
        assert_eq!(scope, "group", "{neighbours:?}: {pages:?}");
        assert!((22.0..=26.5).contains(at), "{neighbours:?}: {pages:?}");
        let opened = (played.transitions[0].at.0 - NOON) as f64 / 1000.0;
        assert!(at - opened <= 5.0, "opened {opened}: {pages:?}");
    }
}

#[test]
fn an_outage_that_does_not_spread_is_told_a_second_after_its_test_held() {
    for (what, fails) in [
        ("a pool", (|def: &Def| def.server == 1 && is_in(def, "www")) as fn(&Def) -> bool),
        ("a server", |def| def.server == 1),
        ("a pool, while one failure comes from elsewhere", |def| {
            def.server == 1 && is_in(def, "www")
        }),
    ] {
        let stray = what.contains("elsewhere");
        let script = hall().run(0, 40, 5, |def, second| match second {
            20.. if fails(def) => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        });
        // One request of another pool fails a moment later.
        let script = script.run(21, 22, u32::from(stray), |def, _| {
            let hit = def.server == 1 && def.name == "shop07.test";
            if hit { Fate::Fail(502, REFUSED) } else { Fate::Idle }
        });
        let pages = pages(&script.play(39));
        let [(Opened, at, _)] = &pages[..] else { panic!("{what}: {pages:?}") };
        assert!((21.0..=22.0).contains(at), "{what}: {pages:?}");
    }
}

#[test]
fn what_spreads_after_it_was_told_is_told_once_more_as_it_then_is() {
    let played = play(hall(), 60, |def, second| match def.server {
        1 if is_in(def, "www") => second >= 20,
        1 => second >= 26,
        2..=4 => second >= 27,
        _ => false,
    });
    let pages = pages(&played);
    let events: Vec<_> = pages.iter().map(|(event, _, scope)| (*event, scope.as_str())).collect();
    assert_eq!(events, [(Opened, "pool"), (Updated, "group")], "{pages:?}");
}

#[test]
fn twice_as_many_failing_sites_are_told_and_those_nobody_had_asked_for_are_not() {
    let script = || Script::default().server("web-07", &[("www", 12), ("shop", 30)]);
    // Four sites of a pool, then eight more, which answered well until then, or had no visitor.
    let run = |well_before: bool, n_more: i64| {
        let script = script().run(0, 200, 5, |def, second| {
            let (first, more) = (def.site.0 <= 4, (5..5 + n_more).contains(&def.site.0));
            match second {
                20.. if first => Fate::Fail(502, REFUSED),
                80.. if more => Fate::Fail(502, REFUSED),
                20.. if more && !well_before => Fate::Idle,
                _ => Fate::Ok,
            }
        });
        let pages = pages(&script.play(190));
        pages.into_iter().map(|(event, ..)| event).collect::<Vec<_>>()
    };
    assert_eq!(run(true, 4), [Opened, Updated]);
    assert_eq!(run(true, 3), [Opened]);
    assert_eq!(run(false, 4), [Opened]);
}

/// Sites that failed in the second in which the page was due were taken for told, and nobody heard.
#[test]
fn growth_in_the_second_of_the_first_page_is_told() {
    let script = Script::default().server("web-07", &[("www", 8), ("shop", 60)]);
    for (rate, more) in [3, 4, 5, 7].into_iter().flat_map(|rate| (22..25).map(move |at| (rate, at)))
    {
        let script = script.clone().run(0, 100, rate, |def, second| {
            let fails = second >= if def.site.0 <= 4 { 20 } else { more };
            if fails && is_in(def, "www") { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let pages = pages(&script.play(90));
        let [(Opened, ..), (Updated, at, _)] = &pages[..] else {
            panic!("{rate} {more}: {pages:?}")
        };
        assert!((51.0..56.0).contains(at), "{rate} {more}: {pages:?}");
    }
}

#[test]
fn growth_is_told_at_most_each_half_minute_and_a_resolution_once() {
    let script = Script::default().server("web-07", &[("www", 48), ("shop", 60)]);
    let played = play(script, 260, |def, second| {
        let from = [(12, 20), (24, 30), (48, 100)];
        let from = from.iter().find(|(n, _)| def.site.0 <= *n).map(|(_, from)| *from);
        from.is_some_and(|from| (from..160).contains(&second))
    });
    let pages = pages(&played);
    let events: Vec<_> = pages.iter().map(|(event, ..)| *event).collect();
    assert_eq!((events[0], events[events.len() - 1]), (Opened, Resolved), "{pages:?}");
    assert_eq!(events.iter().filter(|event| **event == Updated).count(), 2, "{pages:?}");
    let times: Vec<f64> = pages.iter().map(|(_, at, _)| *at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 30.0), "{pages:?}");
}

#[test]
fn a_severity_that_rises_asks_again_so_that_those_who_want_only_critical_ones_hear() {
    // Six of ten needed sites, then ten: warning, then critical.
    let script = Script::default().server("web-07", &[("www", 14), ("shop", 60)]);
    let played = play(script, 60, |def, second| {
        let from = if def.site.0 <= 6 { 20 } else { 40 };
        is_in(def, "www") && def.site.0 <= 10 && second >= from
    });
    let pages = pages(&played);
    let [(Opened, ..), (Updated, at, _)] = &pages[..] else { panic!("{pages:?}") };
    assert!((40.0..44.0).contains(at), "{pages:?}");
    let rises = |t: &&Transition| t.notify.is_some_and(|notify| notify.event == Updated);
    let rises = played.transitions.iter().find(rises).expect("it was told");
    assert_eq!(
        (rises.incident.severity.as_str(), rises.incident.affected.n_sites),
        ("critical", 10)
    );
}

#[test]
fn growth_is_from_what_those_know_whom_a_severity_that_rose_was_no_news() {
    // Nine are told; with ten it is critical, which is news to those alone who want critical ones.
    let script = Script::default().server("web-07", &[("www", 21), ("shop", 60)]);
    let run = |steps: &[(u32, i64)]| {
        let script = script.clone().run(0, 160, 5, |def, second| {
            let from = steps.iter().find(|(n, _)| def.site.0 <= i64::from(*n));
            let fails = from.is_some_and(|(_, from)| second >= *from);
            if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let pages = pages(&script.play(150));
        pages.into_iter().map(|(event, ..)| event).collect::<Vec<_>>()
    };
    let (nine, ten) = ((9, 20), (10, 25));
    for (steps, n_updates) in [
        (vec![nine, ten, (17, 30)], 1),
        (vec![nine, ten, (18, 30)], 2), // twice the nine
        (vec![nine, ten, (18, 30), (19, 90)], 2),
        (vec![nine, ten, (18, 30), (20, 90)], 3), // twice the ten
        (vec![nine, ten, (17, 30), (20, 90)], 2), // twice both
    ] {
        let mut want = vec![Opened];
        want.resize(1 + n_updates, Updated);
        assert_eq!(run(&steps), want, "{steps:?}");
    }
}

#[test]
fn a_first_page_that_waits_is_never_two() {
    let played =
        play(two_pools(), 60, |def, second| second >= if is_in(def, "www") { 20 } else { 21 });
    let pages = pages(&played);
    let [(Opened, at, scope)] = &pages[..] else { panic!("{pages:?}") };
    assert!(scope == "server" && *at <= 25.0, "{pages:?}");
}
