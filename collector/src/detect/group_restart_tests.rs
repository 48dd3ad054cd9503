//! A restart in the middle of an outage of many servers changes nothing.

use proptest::prelude::*;

use super::group_tests::TIMED_OUT;
use super::script::{Fate, Played, REFUSED, RESET, Script};
use super::tests::{crashed, json, play, restarted, story};
use crate::config::DetectConfig;

/// A site, its server, a rollout over a rack after a change, a well server's own fault, recovery of
/// all but some, and the same again.
fn eventful() -> Script {
    let labels = |n: i64| format!("rack=r{} image=i{}", (n - 1) / 6, n % 2);
    let mut script = Script::default().fleet(18, 2, labels);
    for server in 7..=12 {
        script = script.change(18 + server, server, "config", "/etc/php/8.2/fpm/php.ini");
    }
    script.run(0, 240, 2, |def, second| match (def.server, second) {
        (7, 20..60) if def.site.0 % 2 == 0 => Fate::Fail(502, REFUSED),
        (7..=12, _) if (14 + 2 * def.server..60).contains(&second) => Fate::Fail(502, REFUSED),
        (1, 40..130) if def.site.0 == 1 => Fate::Fail(504, TIMED_OUT),
        (8..=12, 110..135) => Fate::Fail(502, RESET),
        (11, 135..170) => Fate::Partly(6, 502, RESET),
        (17, 0..240) => Fate::Idle,
        _ => Fate::Ok,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_restart_from_a_snapshot_in_the_middle_of_a_group_changes_nothing(
        cuts in proptest::collection::vec(0.0..1.0_f64, 4..12),
    ) {
        let records = eventful().in_order();
        let whole = play(&records, 240);
        let is_group = |t: &crate::model::Transition| t.incident.scope == "group";
        prop_assert!(whole.iter().any(is_group) && whole.len() > 10, "{}", whole.len());
        prop_assert_eq!(json(&whole), restarted(&records, 240, &cuts));
    }

    #[test]
    fn groups_restored_over_an_older_snapshot_make_no_twins(
        snapshot in 0.05..0.6_f64, crash in 0.6..1.0_f64,
    ) {
        let records = eventful().in_order();
        let whole = Played { transitions: play(&records, 240) };
        let stored = crashed((&records, &DetectConfig::default()), 240, snapshot, crash);
        prop_assert_eq!(story(&whole), story(&stored));
        prop_assert_eq!(whole.told(), stored.told());
    }
}
