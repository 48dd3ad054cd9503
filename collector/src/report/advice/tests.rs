//! Every rule of advice, and its borders.

use proptest::prelude::*;

use super::*;
use crate::report::need::{Demand, ErrorMinutes};

const GIB: f64 = (1_u64 << 30) as f64;

const PLANS: &str = include_str!("../../../../deploy/config/plans.toml");

fn plans() -> Catalogue {
    Catalogue::parse("plans.toml", PLANS).unwrap()
}

/// Of p95 and p99.5; what else there is follows from them.
fn used(p95: f64, p995: f64) -> Demand {
    Demand {
        p50: Some(0.5 * p95),
        p95: Some(p95),
        p995: Some(p995),
        max: Some(1.05 * p995),
        max_35d: Some(p995),
        next_p95: Some((0.9 * p95, p95, 1.1 * p95)),
    }
}

/// A server on `medium of northcloud` (4 processors, 8 GiB, 160 GB) that is well on it.
fn well() -> Need {
    let labels = [("plan", "medium"), ("provider", "northcloud")];
    Need {
        server: "web-1".into(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        has: Size { vcpu: Some(4.0), memory_bytes: Some(7.8 * GIB), disk_bytes: Some(155e9) },
        n_days: 60.0,
        coverage: 1.0,
        vcpu: used(2.0, 2.5),
        memory: used(4.4 * GIB, 4.8 * GIB),
        disk: used(60e9, 60e9),
        cpu_waited: Some(0.002),
        memory_waited: Some(0.0),
        io_waited: Some(0.001),
        steal_high: Some(0.0),
        n_oom_kills: 0,
        days_to_full: None,
        errors: ErrorMinutes::default(),
    }
}

/// The same with so little use that `small of northcloud` (2, 4 GiB, 80 GB) does.
fn idle() -> Need {
    Need {
        vcpu: used(0.5, 0.8),
        memory: used(1.8 * GIB, 2.0 * GIB),
        disk: used(30e9, 30e9),
        ..well()
    }
}

fn with(mut need: Need, change: impl FnOnce(&mut Need)) -> Need {
    change(&mut need);
    need
}

/// What is advised in few words: `upgrade large high`, with `move` where another host is asked for.
fn short(advice: &Advice) -> String {
    let to = advice.to.as_ref().map(|to| format!(" {}", to.name)).unwrap_or_default();
    let beside = if advice.asks_for_move { " move" } else { "" };
    format!("{}{to}{beside} {}", advice.action.name(), advice.confidence.name())
}

/// The advice must be this, and each of the words must be in one of its sentences.
#[track_caller]
fn check(need: &Need, expected: &str, words: &[&str]) -> Advice {
    check_with(need, &plans(), expected, words)
}

#[track_caller]
fn check_with(need: &Need, plans: &Catalogue, expected: &str, words: &[&str]) -> Advice {
    let advice = advise(need, plans);
    assert_eq!(short(&advice), expected, "{advice:#?}");
    let all = [&advice.reasons[..], &advice.would_change, &advice.errors].concat().join("\n");
    for word in words {
        assert!(all.contains(word), "{word:?} is not in\n{all}");
    }
    advice
}

#[test]
fn a_server_that_is_well_stays_and_hears_what_would_change_that() {
    let advice = check(
        &well(),
        "stay high",
        &[
            "Nearly always it uses no more than 2 of 4 processors (50 %), 4.8 GiB of 7.8 GiB of memory (62 %)",
            "small of northcloud would be too small: 995 of 1,000 minutes take up to 2.5 processors; with 30 % to spare, and what 60 days may hide, that is 3.3 of 2 processors.",
            "Nearly always more than 2.78 busy processors or 5.4 GiB of memory would make it an upgrade.",
        ],
    );
    assert_eq!(advice.headline(), "Stay on medium of northcloud.");
    assert_eq!((advice.difference, advice.currency.as_str()), (Some(0.0), "EUR"));
    assert_eq!(advice.errors, Vec::<String>::new());
    let [cpu, memory, disk] = advice.headroom;
    assert_eq!(
        (cpu.used, cpu.has, cpu.now, cpu.after),
        (Some(2.0), Some(4.0), Some(0.5), Some(0.5))
    );
    assert_eq!(memory.now, Some(1.0 - 4.8 / 7.8));
    assert_eq!(disk.now, Some(1.0 - 60.0 / 155.0));
}

#[test]
fn usage_with_its_margin_above_four_fifths_is_an_upgrade() {
    // 0.8 x 4 / 1.15 = 2.783 processors; 0.8 x 7.8 / 1.15 = 5.426 GiB.
    let cpu = |p95| with(well(), |need| need.vcpu = used(p95, p95 + 0.3));
    check(&cpu(2.78), "stay medium", &["just below the limit"]);
    let advice = check(
        &cpu(2.79),
        "upgrade large low",
        &[
            "In 95 of 100 minutes up to 2.79 of 4 processors are busy; with 15 % to spare that is 80.2 %",
            "just above",
        ],
    );
    assert_eq!(
        advice.headline(),
        "Upgrade from medium of northcloud to large of northcloud: 13.00 EUR a month more (27.90 EUR)."
    );
    check(&cpu(3.3), "upgrade large medium", &["Nothing waited and nothing was killed yet"]);
    let memory = |p995| with(well(), |need| need.memory = used(0.9 * p995 * GIB, p995 * GIB));
    check(&memory(5.42), "stay medium", &[]);
    let advice = check(
        &memory(5.44),
        "upgrade memory-16 low",
        &["In 995 of 1,000 minutes up to 5.4 GiB of 7.8 GiB of memory are in use"],
    );
    assert_eq!(advice.headroom[1].after, Some(1.0 - 5.44 / 16.0));
    assert!((advice.difference.unwrap() - 7.0).abs() < 1e-9);
}

#[test]
fn what_next_week_needs_even_by_its_low_end_is_an_upgrade() {
    let next = |low| with(well(), |need| need.vcpu.next_p95 = Some((low, 3.0, 3.5)));
    check(&next(2.78), "stay high", &[]);
    check(
        &next(2.79),
        "upgrade large medium",
        &["Next week up to 3 of 4 processors will be busy in 95 of 100 minutes (2.79 to 3.5"],
    );
}

#[test]
fn waiting_in_more_than_one_of_a_hundred_minutes_is_an_upgrade() {
    let cpu = |share| with(well(), |need| need.cpu_waited = Some(share));
    check(&cpu(0.01), "stay high", &[]);
    check(
        &cpu(0.0101),
        "upgrade large high",
        &["In 1.01 % of the minutes something waited for a processor"],
    );
    let bursts = with(cpu(0.05), |need| need.vcpu = used(0.5, 0.8));
    check(&bursts, "upgrade large medium", &["it is short bursts that wait"]);
    let memory = |share| with(well(), |need| need.memory_waited = Some(share));
    check(&memory(0.01), "stay high", &[]);
    check(&memory(0.02), "upgrade memory-16 high", &["waited for memory"]);
    // No plan says how fast its disk is.
    let io = with(well(), |need| need.io_waited = Some(0.2));
    check(&io, "stay high", &["In 20 % of the minutes something waited for a disk"]);
}

#[test]
fn a_kill_for_want_of_memory_takes_a_fifth_more() {
    let killed = with(well(), |need| {
        need.n_oom_kills = 1;
        need.memory.max = Some(7.7 * GIB);
    });
    let advice =
        check(&killed, "upgrade memory-16 high", &["The kernel killed once for want of memory."]);
    assert_eq!(advice.needs.memory_bytes, Some(1.2 * 7.8 * GIB));
    let by_limit = with(killed, |need| need.memory = used(2.0 * GIB, 2.2 * GIB));
    check(
        &by_limit,
        "upgrade memory-16 low",
        &["No sample has more than 30 % of the memory in use", "MemoryMax="],
    );
    let tiny = with(well(), |need| {
        need.labels.clear();
        need.has.memory_bytes = Some(0.25 * GIB);
        need.memory = used(0.1 * GIB, 0.1 * GIB);
        need.n_oom_kills = 2;
    });
    let advice = advise(&tiny, &plans());
    assert_eq!(
        advice.needs.memory_bytes,
        Some(0.25 * GIB + 100.0 * 1_048_576.0),
        "100 MiB is more"
    );
}

#[test]
fn stolen_processors_ask_for_another_host_and_not_for_more_of_them() {
    let stolen = |share| with(well(), |need| need.steal_high = Some(share));
    check(&stolen(0.01), "stay high", &[]);
    let advice =
        check(&stolen(0.0101), "move_host move medium", &["kept more than 10 %", "no plan helps"]);
    assert_eq!(
        advice.headline(),
        "Keep the plan medium of northcloud and ask the provider for another host."
    );
    assert_eq!((advice.to, advice.difference), (None, Some(0.0)));
    let busy = with(stolen(0.05), |need| {
        need.vcpu = used(3.9, 4.0);
        need.cpu_waited = Some(0.5);
    });
    check(&busy, "move_host move high", &["Once nobody takes processors away"]);
    let killed = with(stolen(0.2), |need| {
        need.n_oom_kills = 3;
        need.memory.max = Some(7.7 * GIB);
    });
    let advice = check(
        &killed,
        "upgrade memory-16 move high",
        &["killed 3 times", "when nobody takes them away"],
    );
    assert!(advice.headline().contains("to memory-16 of northcloud, and ask for another host: "));
    let small = with(idle(), |need| need.steal_high = Some(0.02));
    check(&small, "move_host move medium", &[]);
}

#[test]
fn gateway_errors_are_a_reason_when_most_of_them_have_one_cause() {
    let errors = |n, memory_full| {
        with(well(), |need| need.errors = ErrorMinutes { n, memory_full, ..Default::default() })
    };
    check(
        &errors(4, 4),
        "stay high",
        &["Of 4 minutes with gateway errors 4 (100 %) came while memory was full"],
    );
    check(&errors(11, 5), "stay high", &[]);
    check(
        &errors(10, 5),
        "upgrade memory-16 high",
        &["5 of 10 minutes with gateway errors came while memory"],
    );
    let cpu = ErrorMinutes { n: 8, cpu_full: 8, ..Default::default() };
    check(&with(well(), |need| need.errors = cpu), "upgrade large high", &[]);
    let steal = ErrorMinutes { n: 8, steal: 8, ..Default::default() };
    check(&with(well(), |need| need.errors = steal), "move_host move medium", &["8 of 8 minutes"]);
    let others = ErrorMinutes {
        n: 100,
        exhausted: 60,
        service: 10,
        site_code: 25,
        unknown: 1,
        disk: 4,
        ..Default::default()
    };
    let advice = check(&with(well(), |need| need.errors = others), "stay high", &[]);
    let begins = [
        "Of 100 minutes with gateway errors 60 (60 %) came while all children of a PHP-FPM pool were busy and",
        "Of 100 minutes with gateway errors 25 (25 %) came from the code of a site",
        "Of 100 minutes with gateway errors 10 (10 %) came while a service was down",
        "Of 100 minutes with gateway errors 4 (4 %) came while a disk",
        "Of 100 minutes with gateway errors 1 (1 %) came with no incident and nothing that was sampled",
    ];
    assert_eq!(advice.errors.len(), begins.len());
    for (told, begin) in advice.errors.iter().zip(begins) {
        assert!(told.starts_with(begin), "{told}");
    }
}

#[test]
fn a_disk_that_is_full_or_soon_will_be_takes_a_larger_one() {
    let full = |p95| with(well(), |need| need.disk = used(p95, p95));
    check(&full(139e9), "stay high", &[]);
    check(
        &full(140e9),
        "upgrade large medium",
        &["The disk is 90 % full", "a volume of its own", "clear up, or take a plan with more"],
    );
    let soon = |days| {
        with(well(), |need| {
            need.disk = used(100e9, 100e9);
            need.days_to_full = Some((0.46 * days, days, 1.5 * days));
        })
    };
    check(&soon(30.0), "stay high", &[]);
    check(
        &soon(29.0),
        "upgrade xlarge medium",
        &[
            "leaves 88 % of its processors, 85 % of its memory and 72 % of its disk free",
            "The disk will be full in about 29 days (13 to 44 days",
        ],
    );
    let now = check(&soon(0.3), "upgrade large medium", &["The disk will be full within a day (0"]);
    assert!(!now.reasons.iter().any(|reason| reason.contains("about 0")), "{:?}", now.reasons);
    // 100 GB and 90 days of 4.7 GB take 587 GB.
    let fast = check(&soon(10.0), "upgrade medium", &["no plan of the catalogue has that"]);
    assert!(
        fast.headline().starts_with("A larger plan is needed, at least "),
        "{}",
        fast.headline()
    );
    let one = with(soon(9.0), |need| need.disk = used(40e9, 40e9));
    check(&one, "stay high", &["One of its file systems will be full in about 9 days"]);
}

#[test]
fn a_volume_of_its_own_is_not_weighed_against_disks_of_plans() {
    let volume = |p95| {
        with(idle(), |need| {
            need.has.disk_bytes = Some(500e9);
            need.disk = used(p95, p95);
        })
    };
    check(
        &volume(490e9),
        "downgrade small high",
        &["Its disk of 465.7 GiB is larger than that of its plan"],
    );
    let killed = with(volume(100e9), |need| {
        need.n_oom_kills = 1;
        need.memory.max = Some(7.8 * GIB);
    });
    let advice = check(&killed, "upgrade memory-16 high", &["disks of plans are left out"]);
    assert_eq!(advice.needs.disk_bytes, None);
    assert_eq!(advice.headroom[2].next, Some(500e9));
}

#[test]
fn an_idle_server_gets_the_cheapest_plan_that_still_fits() {
    let advice = check(
        &idle(),
        "downgrade small high",
        &[
            "small of northcloud is the cheapest that fits: 995 of 1,000 minutes with 30 % to spare take 1.04 of \
             2 processors and 2.6 GiB of 4.0 GiB of memory",
            "Its disk would be smaller",
        ],
    );
    assert_eq!(
        advice.headline(),
        "Downgrade from medium of northcloud to small of northcloud: 7.00 EUR a month less (7.90 EUR)."
    );
    assert!((advice.difference.unwrap() + 7.0).abs() < 1e-9);
    assert_eq!(advice.headroom[0].after, Some(0.75));
}

#[test]
fn a_smaller_plan_takes_time_data_and_room() {
    let days = |n_days| with(idle(), |need| need.n_days = n_days);
    check(
        &days(13.9),
        "stay medium",
        &["A smaller plan takes 14 days of history; there are 14 days"],
    );
    check(&days(14.0), "downgrade small medium", &["a monthly peak would show in 21 days"]);
    check(&days(34.0), "downgrade small medium", &[]);
    check(&days(35.0), "downgrade small high", &[]);
    let coverage = |coverage| with(idle(), |need| need.coverage = coverage);
    check(
        &coverage(0.79),
        "stay medium",
        &["A smaller plan takes samples in 80 % of the hours; 79 % have"],
    );
    check(&coverage(0.8), "downgrade small high", &[]);
    let no_psi = with(idle(), |need| {
        need.cpu_waited = None;
        need.memory_waited = None;
    });
    check(&no_psi, "downgrade small medium", &["does not tell what waited (PSI)"]);
    let io = |share| with(idle(), |need| need.io_waited = Some(share));
    check(&io(0.01), "downgrade small high", &[]);
    check(&io(0.011), "stay high", &["waited for a disk: a smaller plan would make that worse"]);
    let unknown = with(idle(), |need| need.memory = Demand::default());
    check(&unknown, "stay medium", &["not known, as how full its memory is is not"]);
}

#[test]
fn every_figure_can_make_a_plan_too_small() {
    let change = |change: fn(&mut Need)| with(idle(), change);
    for (need, expected, why) in [
        // 2 / 1.3 / (1 + 1/60) = 1.513 processors.
        (change(|need| need.vcpu.p995 = Some(1.51)), "downgrade small high", ""),
        (
            change(|need| need.vcpu.p995 = Some(1.52)),
            "stay high",
            "995 of 1,000 minutes take up to 1.52 processors",
        ),
        // 0.8 x 2 / 1.15 / (1 + 1/60) = 1.368 processors.
        (
            change(|need| need.vcpu = used(1.36, 1.4)),
            "stay high",
            "next week it may take 1.5 of 2 processors",
        ),
        (
            change(|need| need.vcpu = Demand { next_p95: None, ..used(1.36, 1.4) }),
            "downgrade small medium",
            "It fits closely",
        ),
        (
            change(|need| need.vcpu = Demand { next_p95: None, ..used(1.37, 1.4) }),
            "stay high",
            "its processors would be more than 80 % full",
        ),
        (change(|need| need.vcpu.max_35d = Some(1.8)), "downgrade small high", ""),
        (
            change(|need| need.vcpu.max_35d = Some(1.81)),
            "stay high",
            "in the last 35 days an hour took 1.81 of 2",
        ),
        (change(|need| need.vcpu.max = Some(4.0)), "downgrade small high", ""),
        (change(|need| need.memory.max = Some(3.8 * GIB)), "downgrade small high", ""),
        (
            change(|need| need.memory.max = Some(3.9 * GIB)),
            "stay high",
            "once 3.9 GiB of 4.0 GiB of memory were in use",
        ),
        (change(|need| need.disk = used(61e9, 61e9)), "downgrade small high", ""),
        (change(|need| need.disk = used(62e9, 62e9)), "stay high", "its disk holds 57.7 GiB"),
        (
            change(|need| need.days_to_full = Some((200.0, 400.0, 600.0))),
            "stay high",
            "in 180 days its disk will hold 77.1 GiB of 74.5 GiB",
        ),
        (
            change(|need| need.disk = Demand::default()),
            "stay high",
            "how full its disk is is not known",
        ),
    ] {
        check(&need, expected, &[why]);
    }
}

#[test]
fn a_saving_that_is_not_worth_a_move_is_not_advised() {
    let mut plans = plans();
    let price = |plans: &mut Catalogue, price| plans.plans[0].price = price;
    price(&mut plans, 14.2);
    check_with(
        &idle(),
        &plans,
        "stay high",
        &["small of northcloud would do as well, but saves only 4.7 %."],
    );
    price(&mut plans, 14.1);
    check_with(&idle(), &plans, "downgrade small high", &[]);
    price(&mut plans, 0.0);
    check_with(&idle(), &plans, "downgrade small high", &[]);
    price(&mut plans, 30.0);
    plans.plans[2].price = 12.0;
    let advice = check_with(
        &well(),
        &plans,
        "downgrade large high",
        &["has no less of anything and costs less."],
    );
    assert!(
        advice
            .headline()
            .starts_with("Change from medium of northcloud to large of northcloud: 2.90 EUR")
    );
    plans.plans[2].price = 27.9;
    price(&mut plans, 7.9);
    plans.plans[1].price = 0.0;
    check_with(&idle(), &plans, "stay high", &["northcloud has no smaller plan in the catalogue."]);
}

#[test]
fn the_same_provider_comes_first_and_others_only_for_more() {
    let mut plans = plans();
    let killed = with(well(), |need| {
        need.n_oom_kills = 1;
        need.memory.max = Some(7.8 * GIB);
    });
    plans.plans.retain(|plan| plan.name != "memory-16");
    check_with(&killed, &plans, "upgrade large high", &[]);
    plans.plans.retain(|plan| !matches!(plan.name.as_str(), "large" | "xlarge"));
    check_with(
        &killed,
        &plans,
        "upgrade v8 high",
        &["v8 of lakehost is the cheapest that fits, as no plan of northcloud does"],
    );
    plans.plans.retain(|plan| plan.name != "v8" && plan.name != "small");
    let advice =
        check_with(&killed, &plans, "upgrade high", &["no plan of the catalogue has that"]);
    assert_eq!(advice.difference, None);
    check_with(&idle(), &plans, "stay high", &["northcloud has no smaller plan"]);
}

#[test]
fn the_plan_of_a_server_is_found_by_its_labels_or_by_its_size() {
    let label = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        with(idle(), |need| need.labels = labels)
    };
    check(&label(&[("plan", "Medium"), ("provider", "NorthCloud")]), "downgrade small high", &[]);
    check(&label(&[("plan", "medium")]), "downgrade small high", &[]);
    check(
        &label(&[("provider", "northcloud")]),
        "downgrade small medium",
        &["is the only plan of its size"],
    );
    let unlabelled = label(&[]);
    check(
        &unlabelled,
        "downgrade small medium",
        &["medium of northcloud is the only plan of its size"],
    );
    let twins = with(unlabelled, |need| need.has.disk_bytes = None);
    let advice = check(&twins, "stay high", &["several plans have its size", "give it the labels"]);
    assert_eq!((advice.current.as_ref(), advice.headline().as_str()), (None, "Stay on this plan."));
    let gone = label(&[("plan", "vps-2019"), ("provider", "northcloud")]);
    let advice = check(
        &gone,
        "downgrade small high",
        &[
            "Its plan \"vps-2019\" of northcloud is not in the catalogue",
            "What it saves is not known",
        ],
    );
    assert_eq!(advice.difference, None);
    assert_eq!(advice.headline(), "Downgrade to small of northcloud: 7.90 EUR a month.");
    let stale = label(&[("plan", "small"), ("provider", "northcloud")]);
    check(
        &stale,
        "downgrade small high",
        &[
            "Its label names small of northcloud, which has 2 processors and 4.0 GiB of memory, but the server has \
           4 processors and 7.8 GiB of memory: correct the label.",
        ],
    );
    let odd = with(label(&[]), |need| need.has.vcpu = Some(3.0));
    check(&odd, "stay high", &["no plan has its size"]);
}

#[test]
fn without_a_catalogue_the_need_is_told_without_a_plan() {
    let none = Catalogue::default();
    let advice = check_with(&well(), &none, "stay high", &[]);
    assert_eq!((advice.headline().as_str(), advice.difference), ("Stay on this plan.", None));
    check_with(&idle(), &none, "stay high", &[]);
    let busy = with(well(), |need| need.vcpu = used(3.6, 3.9));
    let advice = check_with(&busy, &none, "upgrade medium", &[]);
    assert_eq!(
        advice.headline(),
        "Take a larger plan: at least 6 processors, 7.0 GiB of memory, 63.1 GiB of disk."
    );
    assert_eq!(advice.difference, None);
}

#[test]
fn too_little_data_gives_no_advice_but_says_what_is_known_so_far() {
    let days = |n_days| with(well(), |need| need.n_days = n_days);
    check(
        &days(6.9),
        "not_enough_data low",
        &["Its history of 6.9 days is too short", "or again in 1 day."],
    );
    check(&days(6.96), "stay medium", &["two weeks would show"]);
    check(
        &days(0.0),
        "not_enough_data low",
        &["Its history of 0 days is too short", "Ask for a longer time, or again in 7 days."],
    );
    check(&days(f64::NAN), "not_enough_data low", &[]);
    let coverage = |coverage| with(well(), |need| need.coverage = coverage);
    check(
        &coverage(0.49),
        "not_enough_data low",
        &["Only 49 % of the hours", "why its agent was away"],
    );
    check(&coverage(0.5), "stay medium", &["Only 50 % of the hours have samples"]);
    let unknown = with(well(), |need| {
        need.vcpu = Demand::default();
        need.memory = Demand::default();
    });
    check(&unknown, "not_enough_data low", &["Neither how busy", "agent show"]);
    check(&Need::default(), "not_enough_data low", &[]);
    let shrunk = with(well(), |need| need.has.vcpu = Some(1.0));
    check(&shrunk, "not_enough_data low", &["its size changed in this time", "--from"]);
    let killed = with(days(3.0), |need| need.n_oom_kills = 2);
    let advice = check(
        &killed,
        "not_enough_data low",
        &["So far: The kernel killed twice for want of memory."],
    );
    assert_eq!((advice.to.as_ref(), advice.difference), (None, None));
    assert_eq!(advice.headline(), "There is not enough data for advice.");
}

#[test]
fn numbers_in_sentences_are_written_for_people() {
    for (told, expected) in [
        (words::percent(0.0), "0 %"),
        (words::percent(0.00003), "less than 0.01 %"),
        (words::percent(0.0101), "1.01 %"),
        (words::percent(0.0423), "4.2 %"),
        (words::percent(0.994), "99 %"),
        (words::processors(1.0), "1 processor"),
        (words::processors(0.5), "0.5 processors"),
        (words::days(1.0), "1 day"),
        (words::days(9.94), "9.9 days"),
        (words::days(9.96), "10 days"),
        (words::money(9.9, "EUR"), "9.90 EUR"),
        (words::bytes(1.5 * GIB), "1.5 GiB"),
        (words::bytes(f64::INFINITY), "16777216.0 TiB"),
        (words::list(&["a".into(), "b".into(), "c".into()]), "a, b and c"),
    ] {
        assert_eq!(told, expected);
    }
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        1 => Just(None),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, f64::MIN_POSITIVE]).prop_map(Some),
        6 => (0.0..1.5_f64).prop_map(Some),
    ]
}

fn demand(size: f64) -> impl Strategy<Value = Demand> {
    prop::array::uniform5(number()).prop_map(move |of| {
        let [p95, p995, max, max_35d, next] = of.map(|value| value.map(|value| value * size));
        let next_p95 = next.map(|next| (0.9 * next, next, 1.1 * next));
        Demand { p50: p95, p95, p995, max, max_35d, next_p95 }
    })
}

prop_compose! {
    fn needs()(
        [vcpu, memory, disk] in prop::array::uniform3(number()),
        days in prop_oneof![0.0..90.0_f64, Just(f64::NAN), Just(f64::INFINITY)],
        coverage in 0.0..1.2_f64,
        demands in (demand(4.0), demand(8.0 * GIB), demand(160e9)),
        [cpu_waited, memory_waited, io_waited, steal_high] in prop::array::uniform4(number()),
        n_oom_kills in 0..3_u64,
        full in number(),
        labels in prop::sample::subsequence(vec![("plan", "medium"), ("provider", "northcloud")], 0..=2),
        errors in prop::array::uniform4(0..20_u64),
    ) -> Need {
        Need {
            server: "web-1".into(),
            labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            has: Size {
                vcpu: vcpu.map(|n| (n * 4.0).ceil()),
                memory_bytes: memory.map(|n| n * 8.0 * GIB),
                disk_bytes: disk.map(|n| n * 160e9),
            },
            n_days: days,
            coverage,
            vcpu: demands.0,
            memory: demands.1,
            disk: demands.2,
            cpu_waited,
            memory_waited,
            io_waited,
            steal_high,
            n_oom_kills,
            days_to_full: full.map(|n| (n * 10.0, n * 100.0, n * 150.0)),
            errors: ErrorMinutes {
                n: errors.iter().sum(),
                steal: errors[0],
                memory_full: errors[1],
                cpu_full: errors[2],
                exhausted: errors[3],
                ..ErrorMinutes::default()
            },
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_figures_the_advice_is_whole(need in needs()) {
        let plans = plans();
        let advice = advise(&need, &plans);
        let all = [&advice.reasons[..], &advice.would_change, &advice.errors].concat();
        for sentence in all.iter().chain([&advice.headline()]) {
            prop_assert!(sentence.ends_with('.'), "{sentence}");
            prop_assert!(!sentence.contains("NaN") && !sentence.contains("inf "), "{sentence}");
        }
        prop_assert!(!advice.reasons.is_empty(), "{advice:#?}");
        prop_assert!(advice.to.is_none() || advice.to != advice.current);
        let headroom = advice.headroom.iter().flat_map(|of| [of.now, of.after]).flatten();
        prop_assert!(headroom.into_iter().all(f64::is_finite), "{:?}", advice.headroom);
        match advice.action {
            Action::Upgrade => for of in advice.headroom {
                if let (Some(_), Some(has), Some(next)) = (&advice.to, of.has, of.next) {
                    prop_assert!(next >= 0.98 * has, "{of:?}");
                }
            },
            Action::Downgrade => {
                let (to, from) = (advice.to.as_ref().unwrap(), advice.current.as_ref());
                prop_assert!(from.is_none_or(|from| to.price < from.price));
                prop_assert!(need.n_days >= 13.95 && need.n_oom_kills == 0);
            }
            Action::Stay | Action::MoveHost | Action::NotEnoughData => {
                prop_assert!(advice.to.is_none());
            }
        }
    }
}
