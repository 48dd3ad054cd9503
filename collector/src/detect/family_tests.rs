//! Pressure and failed services beside gateway errors of the same servers: one story, told once.

use super::script::{Fate, Played, REFUSED, Script};
use crate::model::{Incident, NotifyEvent};

/// Four servers on each of three hypervisors; those of the first fail from `fails.0` to `fails.1`.
fn fleet(fails: (i64, i64), until: i64) -> Script {
    let script = Script::default().fleet(12, 3, |n| format!("hypervisor=hv-{}", (n - 1) / 4));
    script.run(0, until, 4, |def, second| {
        let hit = def.server <= 4 && (fails.0..fails.1).contains(&second);
        if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    })
}

/// Steal of every server each ten seconds, high on the first hypervisor from `high.0` to `high.1`.
fn steal(mut script: Script, high: (i64, i64), until: i64) -> Script {
    for second in (0..until).step_by(10) {
        for n in 1..=12 {
            let is_high = n <= 4 && (high.0..=high.1).contains(&second);
            let steal = if is_high { 0.4 } else { 0.01 };
            script = script.sample(second, n, &[("system.cpu.steal", steal)]);
        }
    }
    script
}

/// The last state of every incident of this kind, and who was told what of it.
fn of_kind(played: &Played, kind: &str) -> (Vec<Incident>, Vec<NotifyEvent>) {
    let mut last = std::collections::BTreeMap::new();
    let mut told = Vec::new();
    for transition in played.transitions.iter().filter(|t| t.incident.kind == kind) {
        last.insert(transition.incident.id.clone(), transition.incident.clone());
        told.extend(transition.notify.as_ref().map(|notify| notify.event));
    }
    (last.into_values().collect(), told)
}

#[test]
fn pressure_under_gateway_errors_is_an_untold_child_whichever_came_first() {
    use NotifyEvent::{Opened, Resolved};
    // Steal is found after a minute of it, and known to be gone a minute after its end.
    for (what, fails, high, told) in [
        ("found while they fail", (105, 230), (100, 230), &[][..]),
        ("outlives them by its minute", (105, 180), (100, 180), &[]),
        ("found when they are over", (102, 125), (100, 160), &[]),
        ("found before they fail", (200, 280), (100, 280), &[Opened, Resolved]),
    ] {
        let played = steal(fleet(fails, 420), high, 420).play(420);
        let (errors, told_of_errors) = of_kind(&played, "gateway_errors");
        let [parent] = &errors[..] else { panic!("{what}: {errors:#?}") };
        assert_eq!((&*parent.scope, &*parent.state), ("group", "resolved"), "{what}");
        assert_eq!(told_of_errors, [Opened, Resolved], "{what}");
        let (pressure, told_of_pressure) = of_kind(&played, "pressure");
        let [child] = &pressure[..] else { panic!("{what}: {pressure:#?}") };
        assert_eq!(child.parent.as_ref(), Some(&parent.id), "{what}: {child:#?}");
        assert_eq!((&*child.state, told_of_pressure), ("resolved", told.to_vec()), "{what}");
    }
}

#[test]
fn pressure_that_goes_on_after_the_gateway_errors_is_told_then() {
    let played = steal(fleet((105, 150), 500), (100, 400), 500).play(500);
    let (pressure, told) = of_kind(&played, "pressure");
    let [freed] = &pressure[..] else { panic!("{pressure:#?}") };
    assert_eq!(freed.parent, None);
    assert_eq!(told, [NotifyEvent::Opened, NotifyEvent::Resolved]);
}

#[test]
fn pressure_elsewhere_is_no_part_of_gateway_errors() {
    let mut script = fleet((105, 200), 400);
    for second in (0..400).step_by(10) {
        for n in 1..=12 {
            let steal = if n > 8 && (100..=300).contains(&second) { 0.4 } else { 0.01 };
            script = script.sample(second, n, &[("system.cpu.steal", steal)]);
        }
    }
    let played = script.play(400);
    let (pressure, told) = of_kind(&played, "pressure");
    assert_eq!((pressure.len(), &pressure[0].parent), (1, &None));
    assert_eq!(told, [NotifyEvent::Opened, NotifyEvent::Resolved]);
}

#[test]
fn services_that_fail_together_under_gateway_errors_are_an_untold_child() {
    for first_request in [101, 140] {
        let mut script = fleet((first_request, 200), 400);
        for n in 1..=12 {
            script = script.unit(1, n, "php8.2-fpm.service", "active");
        }
        for n in 1..=4 {
            script = script.unit(100 + n, n, "php8.2-fpm.service", "failed");
            script = script.unit(200, n, "php8.2-fpm.service", "active");
        }
        let played = script.play(400);
        let (errors, _) = of_kind(&played, "gateway_errors");
        let (services, told) = of_kind(&played, "services");
        assert_eq!((errors.len(), services.len()), (1, 1), "{errors:#?} {services:#?}");
        assert_eq!(services[0].parent.as_ref(), Some(&errors[0].id), "{services:#?}");
        // Who heard of the services before the first request failed hears that it goes on as that.
        let heard = first_request > 110;
        let want: &[_] = if heard { &[NotifyEvent::Opened, NotifyEvent::Resolved] } else { &[] };
        assert_eq!(told, want, "{first_request}");
    }
}
