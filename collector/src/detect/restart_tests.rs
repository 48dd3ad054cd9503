//! Announced restarts: what excuses failures, and what does not.

use super::script::{Def, Fate, Played, REFUSED, RESET, Script};
use crate::model::{Transition, TransitionEvent};

const FPM: &str = "php8.2-fpm.service";

fn titles(played: &Played) -> Vec<String> {
    played.last().into_iter().map(|incident| incident.title).collect()
}

fn opened(played: &Played) -> Option<f64> {
    played.events(TransitionEvent::Open).first().map(|(at, _)| *at)
}

/// A server whose every request fails in `from..until`.
fn fails(script: Script, rate: u32, (from, until): (i64, i64)) -> Played {
    let fate = |_: &Def, second: i64| {
        if (from..until).contains(&second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    };
    script.run(0, 60, rate, fate).play(60)
}

#[test]
fn an_announced_restart_of_a_busy_server_is_no_outage_of_it() {
    let script = |state: &str| {
        let script = Script::default().server("web-07", &[("www", 6)]);
        script.unit(-30, 1, FPM, "active").unit(20, 1, FPM, state).unit(23, 1, FPM, "active")
    };
    // What a restart costs of the error budget is for the slow lane to say.
    let outages = |played: &Played| -> Vec<Transition> {
        let all = played.transitions.iter().filter(|t| t.incident.kind == "gateway_errors");
        all.cloned().collect()
    };
    for state in ["reloading", "activating"] {
        let fine = fails(script(state), 50, (20, 24));
        assert!(outages(&fine).is_empty(), "{state}: {:?}", titles(&fine));
        let broken = outages(&fails(script(state), 50, (20, 60)));
        let first = &broken.first().expect("it does not recover").incident;
        let opened_at = (first.detected_at.0 - super::script::at(0)) as f64 / 1000.0;
        assert!((26.0..28.5).contains(&opened_at), "{state}: {opened_at}");
        assert_eq!(first.scope, "server");
        assert!(first.started_at.0 < super::script::at(21), "it began with the restart");
    }
}

#[test]
fn busy_servers_of_one_image_that_restart_at_once_as_announced_are_no_group() {
    let script = Script::default().fleet(9, 6, |n| format!("image=i{}", (n - 1) / 3));
    let script = (1..=3).fold(script, |script, n| {
        script.unit(0, n, FPM, "active").unit(20, n, FPM, "reloading").unit(24, n, FPM, "active")
    });
    let script = script.run(0, 60, 8, |def, second| match def.server {
        1..=3 if (20..24).contains(&second) => Fate::Partly(6, 502, RESET),
        _ => Fate::Ok,
    });
    let played = script.play(60);
    assert!(played.last().is_empty(), "{:?}", titles(&played));
}

#[test]
fn what_fails_after_a_reload_of_a_web_server_is_told_at_once() {
    let script = |unit: &str| {
        let script = Script::default().server("web-07", &[("www", 6)]);
        let reloaded = format!("{unit} reloaded");
        let script = script.unit(-30, 1, unit, "active").unit(20, 1, unit, "reloading");
        script.unit(20, 1, unit, "active").change(20, 1, "restart", &reloaded)
    };
    for unit in ["nginx.service", "apache2.service", "haproxy.service"] {
        let at = opened(&fails(script(unit), 5, (20, 60))).expect("it fails");
        assert!(at < 22.5, "{unit} turns nobody away when it reloads: {at}");
    }
    let at = opened(&fails(script(FPM), 5, (20, 60))).expect("it fails");
    assert!((26.0..28.5).contains(&at), "{at}");
}

#[test]
fn a_restart_of_what_serves_no_pages_excuses_no_failure() {
    for (what, excuses) in
        [("cups.service restarted", false), ("php8.2-fpm.service restarted", true)]
    {
        let script = Script::default().server("web-07", &[("www", 6)]);
        let played = fails(script.change(20, 1, "restart", what), 5, (20, 24));
        assert_eq!(opened(&played).is_none(), excuses, "{what}: {:?}", titles(&played));
    }
}

#[test]
fn three_failures_in_a_row_of_a_slow_site_open_it_at_the_third() {
    let script = Script::default().server("web-07", &[("www", 1)]);
    let fate = |_: &Def, second: i64| {
        if (24..=56).contains(&second) { Fate::Fail(502, RESET) } else { Fate::Ok }
    };
    let played = script.slowly(0, 90, 12, fate).play(90);
    let at = opened(&played).expect("three clients failed, and nobody was answered between");
    assert!((53.0..55.5).contains(&at), "{at}");
}
