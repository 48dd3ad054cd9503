//! Silence: the collector's own faults, small and large fleets.

use std::collections::BTreeSet;

use wire::UnixMillis;

use super::Engine;
use super::hosts_tests::{Fleet, Story};
use super::script::at;
use crate::config::DetectConfig;
use crate::model::CollectorEvent::{
    self, DiskFree, DiskFull, Started, Stopping, UplinkBack, UplinkLost,
};

/// Two boxes, or fourteen on two hypervisors.
fn boxes(n: i64) -> Fleet {
    if n == 2 { Fleet::new(&["hypervisor=hv-1"; 2]) } else { Fleet::usual() }
}

#[test]
fn no_fault_of_the_collector_reads_as_a_fleet_outage_in_a_small_or_a_large_fleet() {
    let full: Vec<(i64, CollectorEvent)> = (103..600).step_by(10).map(|s| (s, DiskFull)).collect();
    let full_and_free: Vec<_> = full.iter().copied().chain([(600, DiskFree)]).collect();
    // All fall silent at 100; the first talks again at `back`, the others so much later.
    for (what, own, back, later) in [
        ("restart", &[(101, Stopping), (160, Started)][..], 215, 0),
        ("restart of an hour", &[(101, Stopping), (3700, Started)], 3755, 0),
        ("kill -9", &[(102, Started)], 160, 0),
        ("full disk, told each ten seconds", &full, 650, 50),
        ("full disk, and told to be free", &full_and_free, 655, 0),
        ("full disk, told once", &[(103, DiskFull)], 230, 50),
        ("full disk, free by a restart", &[(103, DiskFull), (233, Started)], 290, 0),
        ("full by turns", &[(103, DiskFull), (104, DiskFree), (113, DiskFull)], 300, 50),
        ("lost uplink", &[(108, UplinkLost), (200, UplinkBack)], 255, 0),
        ("lost uplink and a restart", &[(108, UplinkLost), (200, Started)], 255, 0),
        ("both", &[(104, DiskFull), (108, UplinkLost), (200, UplinkBack)], 255, 50),
    ] {
        for n in [2, 14] {
            let until = back + 200;
            let mut fleet = boxes(n).talk(1..=n, 0, 100).talk([1], back, until);
            fleet = fleet.talk(2..=n, back + later, until);
            for (second, event) in own {
                fleet = fleet.own(*second, *event);
            }
            assert_eq!(fleet.play(until).told(), [""; 0], "{what}, {n} servers");
        }
    }
}

#[test]
fn a_full_disk_makes_nobody_blind_for_good() {
    for own in [&[(103, DiskFull)][..], &[(103, DiskFull), (140, DiskFree)]] {
        let mut fleet = Fleet::usual().talk(7..=14, 0, 400).talk(1..=6, 0, 100);
        for (second, event) in own {
            fleet = fleet.own(*second, *event);
        }
        let story = fleet.play(400);
        assert_eq!(story.only().place.value.as_deref(), Some("hv-3"), "{own:?}");
        assert!(!story.told()[0].starts_with("open 10"), "{:?}", story.told());
    }
}

#[test]
fn of_two_boxes_each_is_told_by_itself() {
    let one = boxes(2).talk([1], 0, 300).talk([2], 0, 100).play(300);
    assert_eq!(one.only().title, "agent on web-02 silent since 12:01:39");
    let both = boxes(2).talk([1, 2], 0, 100).play(300);
    let scopes: BTreeSet<&str> = both.last().iter().map(|incident| &*incident.scope).collect();
    assert_eq!((both.last().len(), scopes), (2, BTreeSet::from(["server"])));
}

#[test]
fn ten_thousand_servers_that_fall_silent_at_once_are_one_incident_at_bounded_cost() {
    let labels: Vec<String> =
        (0..10_000).map(|n| format!("hypervisor=hv-{} region=r{}", n / 20, n / 2_000)).collect();
    let labels: Vec<&str> = labels.iter().map(|l| &**l).collect();
    let fleet = Fleet::with_heartbeat(&labels, 5000).talk(1..=10_000, 0, 20);
    let mut engine = Engine::new(&DetectConfig::default());
    let mut transitions = Vec::new();
    for (arrived, record) in fleet.in_order() {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
    }
    transitions.extend(engine.advance(UnixMillis(at(900))));
    let story = Story { transitions };
    let incident = story.only();
    assert_eq!((&*incident.scope, incident.affected.n_servers), ("group", 10_000));
    assert_eq!(story.notified().len(), 1, "{:?}", story.told());
    assert!(story.transitions.len() <= 10, "{}", story.transitions.len());
    // Once it is told nobody looks at them again until one talks.
    assert_eq!(engine.hosts.wake(), None);
}

#[test]
fn services_that_come_back_one_by_one_open_no_second_group() {
    // Racks across hypervisors: what is left of a rack may fit a hypervisor as well.
    let labels: Vec<String> =
        (0..24).map(|n| format!("rack=r{} hypervisor=hv-{}", n / 8, n % 8 / 2)).collect();
    let mut fleet =
        Fleet::new(&labels.iter().map(|l| &**l).collect::<Vec<_>>()).talk(1..=24, 0, 400);
    for n in 1..=24 {
        fleet = fleet.unit(n, 1, "php8.2-fpm.service", "active");
    }
    for n in 1..=8 {
        fleet = fleet.unit(n, 100 + n, "php8.2-fpm.service", "failed");
        // Those of two hypervisors come back last.
        fleet = fleet.unit(n, 200 + 6 * n, "php8.2-fpm.service", "active");
    }
    // The others of their hypervisors are not known any more: their units say nothing.
    for n in [13, 14, 15, 16, 21, 22, 23, 24] {
        fleet.records.retain(|(_, record)| {
            !matches!(record, crate::model::Record::Service { server, .. } if server.0 == n)
        });
    }
    let story = fleet.play(400);
    let incident = story.only();
    assert_eq!((&*incident.state, incident.place.value.as_deref()), ("resolved", Some("r0")));
    assert_eq!(story.notified().len(), 2, "{:?}", story.told());
}
