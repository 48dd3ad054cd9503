//! Where what servers show finds its incident: a new one, an open one, or one from before.

use std::collections::BTreeSet;

use super::case::ServerCase;
use super::{ServerCases, Step, WAIT_GROUP_MS, WAIT_MS, group_of, is_inside};
use crate::detect::hosts::{Shared, Signals};
use crate::detect::scope::Scope;
use crate::incident::story;
use crate::model::{NotifyEvent, ServerId, TransitionEvent};

/// Time in which an inner scope, or a group of mostly the same servers, revives an incident, ms.
const REVIVE_MS: i64 = 120_000;
/// Time after opening or widening in which a group may still give way to a larger one, or to one
/// inside it, ms.
const MOVES_MS: i64 = 180_000;
/// How long a group inside must be the only explanation: in the first minute, and later, ms.
const NARROW_FIRST_MS: i64 = 3_000;
const NARROW_MS: i64 = 15_000;
const FIRST_MS: i64 = 60_000;

impl ServerCases {
    /// One group that shows a fault together.
    pub(super) fn place_group(&mut self, step: &mut Step<'_>, signals: &Signals, shared: &Shared) {
        let scope = Scope::Group(shared.group.clone());
        let of_kind = || self.cases.iter().filter(|(_, case)| case.kind == signals.kind);
        let inside_open =
            of_kind().any(|(_, c)| c.is_live(step.now) && is_inside(step.fleet, &c.scope, &scope));
        if inside_open {
            return;
        }
        let takes = |case: &ServerCase| {
            let present: BTreeSet<ServerId> = case.present().collect();
            let shares = present.intersection(&shared.failing).count();
            let young = step.now - case.scope_since < MOVES_MS;
            let larger = shared.failing.len() > present.len();
            is_inside(step.fleet, &scope, &case.scope)
                || (!present.is_empty() && shares == present.len())
                || (group_of(&case.scope).is_some()
                    && 2 * shares >= present.len()
                    && young
                    && larger)
        };
        let inner: Vec<u64> =
            of_kind().filter(|(_, c)| c.is_open() && takes(c)).map(|(no, _)| *no).collect();
        let cooling = of_kind().find(|(_, case)| {
            case.cools(step) && (case.scope == scope || case.is_like(shared, step.now, REVIVE_MS))
        });
        let cooling = cooling.map(|(no, _)| *no);
        if !inner.is_empty() {
            self.escalate(step, signals, shared, &inner, cooling);
        } else if let Some(no) = cooling {
            self.reopen(step, signals, no, scope, &shared.failing);
        } else {
            // Servers that an incident holds are told: while they come back one by one, others than
            // its own group may fit what is left.
            let held = self.held(signals.kind);
            let new: BTreeSet<ServerId> = shared.failing.difference(&held).copied().collect();
            if new.len() >= step.settings.group.n_failing_min {
                self.open(step, signals, scope, &new);
            }
        }
    }

    /// One server that shows a fault by itself.
    pub(super) fn place_alone(&mut self, step: &mut Step<'_>, signals: &Signals, id: ServerId) {
        let (scope, failing) = (Scope::Server(id), BTreeSet::from([id]));
        if self.held(signals.kind).contains(&id) {
            return;
        }
        let of_kind = || self.cases.iter().filter(|(_, case)| case.kind == signals.kind);
        let open = of_kind().find(|(_, case)| case.is_open() && case.scope == scope);
        if let Some(no) = open.map(|(no, _)| *no) {
            self.with(no, |case| case.enter(step.fleet, id, signals.failing[&id], step.now));
            return;
        }
        let cooling = of_kind().filter(|(_, case)| case.cools(step)).find(|(_, case)| {
            let recent = case.resolved_at.is_some_and(|at| step.now - at <= REVIVE_MS);
            case.scope == scope || (recent && case.members.contains_key(&id))
        });
        match cooling.map(|(no, _)| *no) {
            Some(no) => self.reopen(step, signals, no, scope, &failing),
            None => self.open(step, signals, scope, &failing),
        }
    }

    fn open(
        &mut self,
        step: &mut Step<'_>,
        signals: &Signals,
        scope: Scope,
        failing: &BTreeSet<ServerId>,
    ) {
        let started_at = start_of(signals, failing);
        let mut case = ServerCase::open(step.fleet, signals.kind, scope, started_at, step.now);
        for id in failing {
            case.enter(step.fleet, *id, signals.failing[id], step.now);
        }
        case.say(step.now, "opened".to_owned());
        case.find_parent(step);
        let notify = case.tell(NotifyEvent::Opened, step.now, step.now + wait(&case.scope));
        case.emit(TransitionEvent::Open, notify, step);
        self.cases.insert(self.next, case);
        self.next += 1;
    }

    fn reopen(
        &mut self,
        step: &mut Step<'_>,
        signals: &Signals,
        no: u64,
        scope: Scope,
        failing: &BTreeSet<ServerId>,
    ) {
        self.with(no, |case| {
            case.revive(scope, step.now);
            for id in failing {
                case.enter(step.fleet, *id, signals.failing[id], step.now);
            }
            let due = step.now + wait(&case.scope);
            case.find_parent(step);
            // Nobody is told again of what was told a moment ago, unless somebody took it.
            let notify =
                case.acked.then(|| case.tell(NotifyEvent::Opened, step.now, due)).flatten();
            case.emit(TransitionEvent::Reopen, notify, step);
        });
    }

    /// A wider scope takes over the oldest id inside it; the others become its children.
    fn escalate(
        &mut self,
        step: &mut Step<'_>,
        signals: &Signals,
        shared: &Shared,
        inner: &[u64],
        cooling: Option<u64>,
    ) {
        let oldest = |no: &&u64| self.cases.get(no).map(|case| (case.started_at, case.id.clone()));
        let main = cooling.or_else(|| inner.iter().min_by_key(oldest).copied());
        let Some(main) = main else { return };
        for no in inner.iter().filter(|no| **no != main) {
            self.merge(step, *no, main);
        }
        self.with(main, |case| {
            let scope = Scope::Group(shared.group.clone());
            let from = story::place_name(step.fleet, &case.scope);
            let to = story::place_name(step.fleet, &scope);
            let event = if case.is_open() {
                case.widen(scope, step.now);
                case.say(step.now, format!("widened from {from} to {to}"));
                TransitionEvent::Escalate
            } else {
                case.revive(scope, step.now);
                TransitionEvent::Reopen
            };
            for id in &shared.failing {
                case.enter(step.fleet, *id, signals.failing[id], step.now);
            }
            case.find_parent(step);
            let notify = case.tell_change(step.now, step.now + WAIT_GROUP_MS);
            case.emit(event, notify, step);
        });
    }

    fn merge(&mut self, step: &mut Step<'_>, child: u64, main: u64) {
        let Some(mut case) = self.cases.remove(&child) else { return };
        let Some(parent) = self.cases.get_mut(&main) else { return };
        // Whoever heard that it began hears that it is over; what was not told yet never is.
        let told = case.told.as_ref().is_some_and(|told| step.now >= told.due);
        let notify = if told { case.tell(NotifyEvent::Resolved, step.now, step.now) } else { None };
        case.parent = Some(parent.id.clone());
        case.resolved_at = Some(step.now);
        case.say(step.now, format!("merged into {}", parent.id));
        case.emit(TransitionEvent::Merge, notify, step);
        parent.children.push(case.id.clone());
        parent.children.append(&mut case.children);
        for (id, member) in case.members {
            parent.moved.insert(id);
            parent.members.entry(id).and_modify(|known| known.absorb(&member)).or_insert(member);
        }
    }

    /// A group that no longer explains anything becomes the one inside it that does.
    pub(super) fn narrow(&mut self, step: &mut Step<'_>, signals: &Signals) {
        let numbers: Vec<u64> = self.cases.keys().copied().collect();
        for no in numbers {
            let Some(case) = self.cases.get_mut(&no) else { continue };
            if !case.is_open() || case.kind != signals.kind || group_of(&case.scope).is_none() {
                continue;
            }
            let age = step.now - case.scope_since;
            let stands = signals.groups.iter().any(|s| Some(&s.group) == group_of(&case.scope));
            let mut inner = signals.groups.iter().filter(|shared| {
                let present: BTreeSet<ServerId> = case.present().collect();
                let scope = Scope::Group(shared.group.clone());
                is_inside(step.fleet, &case.scope, &scope) && present.is_subset(&shared.failing)
            });
            let only = match (inner.next(), inner.next()) {
                (Some(only), None) if !stands && age <= MOVES_MS => only,
                _ => {
                    case.narrowing = None;
                    continue;
                }
            };
            let since = match &case.narrowing {
                Some((group, since)) if *group == only.group => *since,
                _ => step.now,
            };
            case.narrowing = Some((only.group.clone(), since));
            let least = if age <= FIRST_MS { NARROW_FIRST_MS } else { NARROW_MS };
            if step.now - since >= least {
                let scope = Scope::Group(only.group.clone());
                let from = story::place_name(step.fleet, &case.scope);
                let to = story::place_name(step.fleet, &scope);
                case.widen(scope, step.now);
                case.say(step.now, format!("narrowed from {from} to {to}"));
                let notify = case.tell_change(step.now, step.now + WAIT_GROUP_MS);
                case.emit(TransitionEvent::Narrow, notify, step);
            }
        }
    }

    fn with(&mut self, no: u64, change: impl FnOnce(&mut ServerCase)) {
        if let Some(case) = self.cases.get_mut(&no) {
            change(case);
        }
    }
}

fn wait(scope: &Scope) -> i64 {
    if group_of(scope).is_some() { WAIT_GROUP_MS } else { WAIT_MS }
}

/// When it began: the first sign, but none long before the others, which is another story.
fn start_of(signals: &Signals, failing: &BTreeSet<ServerId>) -> i64 {
    const GAP_MS: i64 = 60_000;
    let mut starts: Vec<i64> =
        failing.iter().filter_map(|id| signals.failing.get(id)).copied().collect();
    starts.sort_unstable();
    let middle = starts.len() / 2;
    let Some(mut start) = starts.get(middle).copied() else { return 0 };
    for earlier in starts[..middle].iter().rev() {
        if start - earlier > GAP_MS {
            break;
        }
        start = *earlier;
    }
    start
}
