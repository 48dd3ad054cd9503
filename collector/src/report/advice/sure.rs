//! How sure an advice is, what keeps it from being surer, and what would change it. Pure.

use super::current::Current;
use super::figures::{DAYS_DOWN_MIN, FULL, Figures, MARGIN, plan_size, sane};
use super::signs::Sign;
use super::{Action, Advice, Confidence, Resource, words};

/// Share of the hours with samples below which doubts begin.
const COVERAGE: f64 = 0.8;
/// Days in which a monthly peak is seen.
const MONTH_DAYS: f64 = 35.0;
/// Nearer to a limit than this share, a little more or less would change the advice.
const NEAR: f64 = 0.05;
/// Share of the minutes with stolen processors that leaves no doubt.
const STEAL_SURE: f64 = 0.05;

/// Takes steps down from sure, each with its reason.
struct Doubts {
    n: u32,
    told: Vec<String>,
}

impl Doubts {
    fn add(&mut self, steps: u32, why: impl Into<String>) {
        self.n += steps;
        self.told.push(why.into());
    }
}

/// How sure it is, and the sentences.
pub(super) fn of(
    figures: &Figures<'_>,
    current: &Current<'_>,
    advice: &Advice,
    short: &[Sign],
    moves: &[Sign],
) -> (Confidence, Vec<String>) {
    let mut doubts = Doubts { n: 0, told: Vec::new() };
    if figures.coverage < COVERAGE {
        let share = words::percent(figures.coverage);
        doubts.add(
            1,
            format!("Only {share} of the hours have samples: what the others held is not known."),
        );
    }
    match advice.action {
        Action::Upgrade => upgrade(figures, current, advice, short, &mut doubts),
        Action::Downgrade => downgrade(figures, advice, &mut doubts),
        Action::MoveHost => moving(figures, moves, &mut doubts),
        Action::Stay | Action::NotEnoughData => stay(figures, &mut doubts),
    }
    if let Some(doubt) = &current.doubt {
        // The money may be wrong, the need is not.
        let is_about_plan = matches!(advice.action, Action::Upgrade | Action::Downgrade);
        doubts.add(u32::from(is_about_plan && current.is_by_size), doubt.clone());
    }
    let confidence = match doubts.n {
        0 => Confidence::High,
        1 => Confidence::Medium,
        _ => Confidence::Low,
    };
    (confidence, doubts.told)
}

fn upgrade(
    figures: &Figures<'_>,
    current: &Current<'_>,
    advice: &Advice,
    short: &[Sign],
    doubts: &mut Doubts,
) {
    if figures.is_shorter_than(DAYS_DOWN_MIN) {
        let days = words::days(figures.n_days);
        doubts.add(1, format!("It rests on {days}; two weeks would show whether they were usual."));
    }
    let is_felt = short.iter().any(|sign| sign.is_hard);
    let is_usage = short.iter().any(|sign| sign.resource != Resource::Disk);
    if !is_felt && is_usage && figures.knows_waits() {
        doubts.add(1, "Nothing waited and nothing was killed yet: it could stay while that is so.");
    } else if !is_felt && is_usage {
        doubts.add(
            1,
            "Its kernel does not tell what waited (PSI), so nobody knows whether it was felt.",
        );
    }
    if !is_felt && short.iter().all(|sign| is_near(figures, sign.resource)) && is_usage {
        doubts.add(1, "It is just above the limit: a little less use would make it stay.");
    }
    killed_with_room(figures, short, doubts);
    let only_cpu = short.iter().all(|sign| sign.resource == Resource::Cpu);
    let (used, has) = (figures.counted(Resource::Cpu), figures.has(Resource::Cpu));
    if let (true, Some(used), Some(has)) = (only_cpu, used, has)
        && used < 0.5 * has
    {
        let share = words::percent(used / has);
        doubts.add(1, format!(
            "Nearly always no more than {share} of the processors are busy: it is short bursts that wait, and \
             moving the jobs that make them apart may do as well."
        ));
    }
    if advice.asks_for_move {
        doubts.told.push(
            "Whether it needs more processors as well can be told when nobody takes them away."
                .into(),
        );
    }
    if let Some((_, _, high)) = figures.days_to_full()
        && short.iter().all(|sign| sign.resource == Resource::Disk && !sign.is_hard)
        && high > 60.0
    {
        doubts.add(1, "The growth of the disk is not steady: it may last much longer.");
    }
    if !is_usage && figures.has_plan_disk {
        doubts
            .add(1, "Only its disk is short: to clear up, or a volume of its own, may cost less.");
    }
    if current.provider.is_none() && current.plan.is_none() && advice.to.is_some() {
        doubts.add(1, "Whose it is is not known: the plan is the cheapest of all providers.");
    }
}

/// A kill while memory was not full: some limit of a unit or container, which a plan does not move.
fn killed_with_room(figures: &Figures<'_>, short: &[Sign], doubts: &mut Doubts) {
    let memory: Vec<_> = short.iter().filter(|sign| sign.resource == Resource::Memory).collect();
    let is_killed_alone = figures.need.n_oom_kills > 0 && memory.len() == 1;
    let (max, has) = (figures.demand(Resource::Memory).max, figures.has(Resource::Memory));
    if let (true, Some(max), Some(has)) = (is_killed_alone, max, has)
        && max < FULL * has
    {
        let share = words::percent(max / has);
        doubts.add(2, format!(
            "No sample has more than {share} of the memory in use: look first whether a limit of a service or \
             container (MemoryMax=) had it killed, which a larger plan does not move."
        ));
    }
}

fn downgrade(figures: &Figures<'_>, advice: &Advice, doubts: &mut Doubts) {
    if figures.is_shorter_than(MONTH_DAYS) {
        let days = words::days((MONTH_DAYS - figures.n_days).ceil());
        doubts.add(1, format!("Less than 35 days were seen: a monthly peak would show in {days}."));
    }
    if !figures.knows_waits() {
        doubts.add(
            1,
            "Its kernel does not tell what waited (PSI): look whether it is quick enough now.",
        );
    }
    let Some(to) = &advice.to else { return };
    let is_close = [Resource::Cpu, Resource::Memory].into_iter().any(|resource| {
        let used = figures.counted(resource).map(|used| used * MARGIN * figures.upper());
        used.is_some_and(|used| used > (FULL - NEAR) * plan_size(to, resource))
    });
    if is_close {
        doubts.add(1, "It fits closely: a little more use would call for the larger plan again.");
    }
    if figures.counted(Resource::Disk).is_none() {
        doubts.told.push("How full its disk is is not known.".into());
    }
    if sane(figures.need.io_waited).is_none() && figures.knows_waits() {
        doubts.told.push("Whether something waited for its disks is not known.".into());
    }
}

fn moving(figures: &Figures<'_>, moves: &[Sign], doubts: &mut Doubts) {
    match sane(figures.need.steal_high) {
        Some(share) if share >= STEAL_SURE => {}
        Some(_) => {
            doubts.add(1, "It is stolen from now and then only: a neighbour may leave by itself.");
        }
        None if moves.is_empty() => {}
        None => doubts.add(1, "How much was stolen in all is not known."),
    }
    doubts.told.push(
        "Once nobody takes processors away, its figures show whether it needs another plan.".into(),
    );
}

fn stay(figures: &Figures<'_>, doubts: &mut Doubts) {
    if figures.is_shorter_than(DAYS_DOWN_MIN) {
        let days = words::days(figures.n_days);
        doubts.add(1, format!("It rests on {days}; two weeks would show whether they were usual."));
    }
    if !figures.knows_waits() {
        doubts.add(
            1,
            "Its kernel does not tell what waited (PSI): slowness without high use would not show.",
        );
    }
    for resource in Resource::ALL {
        if figures.counted(resource).is_none() || figures.has(resource).is_none() {
            let steps = u32::from(resource != Resource::Disk);
            let what = words::usage(resource);
            doubts.add(steps, format!("It is not known {what}."));
        }
    }
    if [Resource::Cpu, Resource::Memory].into_iter().any(|resource| is_near(figures, resource)) {
        doubts.add(1, "It is just below the limit: a little more use would make it an upgrade.");
    }
    let limit = |resource: Resource| figures.has(resource).map(|has| FULL * has / MARGIN);
    let parts: Vec<String> = [
        limit(Resource::Cpu).map(|limit| format!("{} busy processors", words::number(limit))),
        limit(Resource::Memory).map(|limit| format!("{} of memory", words::bytes(limit))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !parts.is_empty() {
        let what = parts.join(" or ");
        doubts.told.push(format!("Nearly always more than {what} would make it an upgrade."));
    }
}

/// Whether the use of a resource is near the limit, on either side.
fn is_near(figures: &Figures<'_>, resource: Resource) -> bool {
    let (Some(used), Some(has)) = (figures.counted(resource), figures.has(resource)) else {
        return false;
    };
    let share = used * MARGIN / has;
    resource != Resource::Disk && (share / FULL - 1.0).abs() < NEAR
}
