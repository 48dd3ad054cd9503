//! The scorer on answers whose score is known: what is right scores 1, each fault lowers its row.

use std::collections::BTreeSet;

use crate::score::{Miss, Score, world};
use crate::told::{State, Told};
use crate::truth::{Answer, Outage};
use crate::world::START_MS;

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

/// Server `web-1` with its sites `a`, `b` and `c` down from second 100 to 200 for lack of memory.
fn outage() -> Outage {
    Outage {
        name: "Oom".to_owned(),
        kinds: vec!["gateway_errors".to_owned()],
        answers: vec![Answer {
            scope: "server".to_owned(),
            must: names(&["web-1"]),
            may: names(&["web-1"]),
        }],
        causes: vec!["oom".to_owned()],
        required: true,
        timed: true,
        remains: false,
        flaps: false,
        restarted: false,
        from: START_MS + 100_000,
        until: START_MS + 200_000,
        change: None,
        servers: names(&["web-1"]),
        sites: names(&["a", "b", "c"]),
        n_failed: 500,
        first_at: Some(START_MS + 100_000),
        third_at: Some(START_MS + 100_400),
        third_client_at: Some(START_MS + 100_700),
        last_at: Some(START_MS + 199_000),
        identifiable_at: Some(START_MS + 101_000),
    }
}

/// The perfect answer to `outage`.
fn told(id: &str) -> Told {
    let state = |at, event: &str, is_open| State {
        at: START_MS + at,
        event: event.to_owned(),
        is_open,
        scope: "server".to_owned(),
        members: names(&["web-1"]),
        sites: names(&["a", "b", "c"]),
        cause: "oom".to_owned(),
        runner_up: Some("crash".to_owned()),
        parent: None,
        change: None,
    };
    Told {
        id: id.to_owned(),
        kind: "gateway_errors".to_owned(),
        started_at: START_MS + 100_000,
        detected_at: START_MS + 101_000,
        resolved_at: Some(START_MS + 230_000),
        retroactive: false,
        title: String::new(),
        states: vec![state(101_000, "open", true), state(230_000, "resolve", false)],
    }
}

/// The perfect answer after `change`, scored.
fn changed(change: impl Fn(&mut Told)) -> (Score, Vec<Miss>) {
    let mut answer = told("A");
    change(&mut answer);
    world(&[outage()], &[answer], 1.0)
}

fn all_states(told: &mut Told, change: impl Fn(&mut State)) {
    told.states.iter_mut().for_each(change);
}

#[test]
fn a_perfect_answer_scores_one_everywhere() {
    let (score, misses) = changed(|_| {});
    assert_eq!(misses, []);
    assert_eq!((score.scope_f1(), score.recall(), score.precision()), (1.0, 1.0, 1.0));
    assert_eq!(score.site_f1, [1.0]);
    assert_eq!((score.n_caused, score.n_cause_first, score.n_cause_second), (1, 1, 1));
    assert_eq!((score.delays_s, score.client_delays_s), (vec![0.6], vec![0.3]));
    assert_eq!(score.server_delays_s, [0.0]);
    assert_eq!((score.n_false_site, score.n_false_wide, score.n_duplicates), (0, 0, 0));
}

#[test]
fn silence_about_an_outage_lowers_recall_and_scope_alone() {
    let (score, misses) = world(&[outage()], &[], 1.0);
    assert_eq!((score.recall(), score.scope_f1()), (0.0, 0.0));
    assert_eq!(score.n_false_site + score.n_false_wide, 0);
    assert_eq!(misses[0].what, "missed");
}

#[test]
fn a_wrong_scope_or_a_member_too_many_is_found_and_not_exact() {
    let wider = |told: &mut Told| {
        all_states(told, |state| {
            state.scope = "group".to_owned();
            state.members.insert("web-2".to_owned());
        });
    };
    let (score, misses) = changed(wider);
    assert_eq!((score.recall(), score.precision(), score.scope_f1()), (1.0, 0.0, 0.0));
    assert_eq!(score.n_false_wide, 1, "a page for a server that was well");
    assert_eq!((misses[0].what, misses[1].what), ("too wide", "scope"));
    assert_eq!(score.server_delays_s, Vec::<f64>::new());
}

#[test]
fn the_scope_counts_while_the_outage_is_on_and_not_when_it_ends() {
    let late = |told: &mut Told| {
        told.states[0].scope = "site".to_owned();
        told.states[1].scope = "server".to_owned();
    };
    assert_eq!(changed(late).0.n_exact, 0);
}

#[test]
fn missing_and_added_sites_lower_the_site_sets() {
    let (score, _) = changed(|told| all_states(told, |state| state.sites = names(&["a", "x"])));
    assert_eq!(score.site_f1, [0.4]);
}

#[test]
fn the_second_guess_counts_as_second_and_a_wrong_cause_as_none() {
    let (score, _) = changed(|told| {
        all_states(told, |state| {
            state.cause = "crash".to_owned();
            state.runner_up = Some("oom".to_owned());
        });
    });
    assert_eq!((score.n_cause_first, score.n_cause_second), (0, 1));
    let (score, _) = changed(|told| all_states(told, |state| state.cause = "dns".to_owned()));
    assert_eq!((score.n_cause_first, score.n_cause_second), (0, 0));
}

#[test]
fn a_late_opening_shows_in_the_delay() {
    let (score, misses) = changed(|told| told.detected_at = START_MS + 110_400);
    assert_eq!(score.delays_s, [10.0]);
    assert!(misses.iter().any(|miss| miss.what == "late"));
}

#[test]
fn an_incident_of_nothing_is_false_by_its_scope_and_lowers_precision() {
    let mut stray = told("B");
    stray.started_at = START_MS + 900_000;
    let (score, misses) = world(&[outage()], &[told("A"), stray.clone()], 2.0);
    assert_eq!((score.recall(), score.precision()), (1.0, 0.5));
    assert_eq!((score.n_false_site, score.n_false_wide), (0, 1));
    assert!(score.scope_f1() < 0.7);
    assert_eq!(misses[0].what, "false");
    all_states(&mut stray, |state| state.scope = "site".to_owned());
    let (score, _) = world(&[], &[stray], 2.0);
    assert_eq!((score.n_false_site, score.n_false_wide), (1, 0));
}

#[test]
fn a_second_incident_of_one_outage_is_a_duplicate_and_a_twin_after_a_restart() {
    let (score, _) = world(&[outage()], &[told("A"), told("B")], 1.0);
    assert_eq!((score.n_duplicates, score.n_twins, score.n_found), (1, 0, 1));
    let restarted = Outage { restarted: true, ..outage() };
    let (score, _) = world(&[restarted], &[told("A"), told("B")], 1.0);
    assert_eq!((score.n_restarted, score.n_twins), (1, 1));
}

#[test]
fn a_merged_incident_is_no_duplicate_but_a_page_when_it_was_told_before() {
    let part = |merged_at: i64| {
        let mut part = told("B");
        part.states[1].at = START_MS + merged_at;
        part.states[1].parent = Some("A".to_owned());
        part
    };
    let sites = (0..2_500).map(|n| format!("s{n}")).chain(["a".to_owned()]).collect();
    let many = Outage { sites, ..outage() };
    let pages = |merged_at| {
        let (score, _) = world(std::slice::from_ref(&many), &[told("A"), part(merged_at)], 1.0);
        assert_eq!((score.n_duplicates, score.n_many), (0, 1));
        score.pages_max
    };
    assert_eq!((pages(102_000), pages(108_000)), (1, 2));
}

#[test]
fn flapping_keeps_one_id_or_it_does_not() {
    let flapping = Outage { flaps: true, ..outage() };
    let (score, _) = world(std::slice::from_ref(&flapping), &[told("A")], 1.0);
    assert_eq!((score.n_flapping, score.n_flapping_one_id), (1, 1));
    let (score, _) = world(&[flapping], &[told("A"), told("B")], 1.0);
    assert_eq!((score.n_flapping, score.n_flapping_one_id), (1, 0));
}

#[test]
fn what_is_left_of_a_wider_outage_may_be_told_under_its_id() {
    let mut wider = outage();
    wider.sites.extend(["x".to_owned(), "y".to_owned(), "z".to_owned()]);
    wider.answers[0].must = names(&["web-2"]);
    let inner = Outage { remains: true, ..outage() };
    let mut answer = told("A");
    all_states(&mut answer, |state| state.sites.clone_from(&wider.sites));
    let (score, _) = world(&[wider.clone(), inner.clone()], &[answer.clone()], 1.0);
    assert_eq!((score.n_outages, score.n_found, score.n_exact), (2, 2, 1));
    all_states(&mut answer, |state| state.scope = "pool".to_owned());
    let (score, _) = world(&[wider, inner], &[answer], 1.0);
    assert_eq!((score.n_outages, score.n_found, score.n_exact), (2, 1, 0));
}

#[test]
fn a_blip_may_be_told_or_not() {
    let blip = Outage { required: false, ..outage() };
    for told in [vec![told("A")], Vec::new()] {
        let (score, misses) = world(std::slice::from_ref(&blip), &told, 1.0);
        assert_eq!((score.n_outages, score.n_incidents, misses), (0, 0, Vec::new()));
    }
}

#[test]
fn two_outages_at_once_each_want_their_own_incident() {
    let mut other = outage();
    other.sites = names(&["x", "y"]);
    other.servers = names(&["web-2"]);
    let (score, _) = world(&[outage(), other], &[told("A")], 1.0);
    assert_eq!((score.n_outages, score.n_found), (2, 1));
}

#[test]
fn an_incident_of_the_wrong_kind_tells_no_outage() {
    let (score, _) = changed(|told| told.kind = "silence".to_owned());
    assert_eq!((score.n_found, score.n_false_wide), (0, 1));
}

#[test]
fn an_empty_run_reaches_no_floor() {
    let (score, _) = world(&[], &[], 0.0);
    assert_eq!((score.scope_f1(), score.recall(), score.precision()), (0.0, 0.0, 0.0));
    assert_eq!(crate::score::quantile(&score.delays_s, 0.5), f64::INFINITY);
}
