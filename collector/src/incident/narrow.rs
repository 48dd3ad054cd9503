//! How an incident narrows: its scope explains no more what fails, one inside it does.

use wire::UnixMillis;

use super::case::{Case, Kind};
use super::{Book, Step, start_of, story, wait_of_change};
use crate::detect::Fleet;
use crate::detect::scope::{self, Finding, Pool, Scope};
use crate::model::{Moment, SiteId, TransitionEvent};

/// Time after opening or widening, or after becoming a group, in which a scope may narrow, ms.
const NARROW_MS: i64 = 180_000;
/// How long one inner scope must be the best explanation, ms.
const NARROW_AFTER_MS: i64 = 15_000;
/// The same from group to group in the first minute as a group, ms.
const NARROW_GROUP_AFTER_MS: i64 = 3_000;
const YOUNG_GROUP_MS: i64 = 60_000;
/// Groups whose failures began within this began together, ms.
const TOGETHER_MS: i64 = 2_000;
/// Gap in the findings of the inner scope that is bridged, ms.
const NARROW_GAP_MS: i64 = 3_000;

impl Book {
    /// An incident whose scope no longer explains anything becomes the one inner scope that does.
    pub(super) fn narrow(&mut self, step: &mut Step<'_>, findings: &[Finding]) {
        let numbers: Vec<u64> = self.cases.keys().copied().collect();
        for no in numbers {
            let of_kind = |case: &&mut Case| case.is_open() && case.kind == Kind::GatewayErrors;
            let Some(case) = self.cases.get_mut(&no).filter(of_kind) else { continue };
            let since = case.group_since.unwrap_or(case.scope_since);
            let young = step.now - since <= NARROW_MS;
            let stands = findings.iter().any(|f| scope::is_same(&f.scope, &case.scope));
            // What is over does not narrow to the last that trickles.
            if stands
                || !young
                || case.recovery.is_recovering(case.known_until(step.fleet, step.now))
            {
                case.narrowing = None;
                continue;
            }
            let best = match best_inner(step.fleet, no, case, findings) {
                Inner::None => continue,
                Inner::Several => {
                    case.narrowing = None;
                    continue;
                }
                Inner::Best(best) => best,
            };
            let since = match &case.narrowing {
                Some((scope, since, seen))
                    if scope::is_same(scope, &best.scope) && step.now - seen <= NARROW_GAP_MS =>
                {
                    *since
                }
                _ => step.now,
            };
            if fails_beside(step.fleet, &case.scope, &best.scope) {
                case.narrowing = None;
                continue;
            }
            case.narrowing = Some((best.scope.clone(), since, step.now));
            if step.now - since >= narrow_after(case, &best.scope, step.now) {
                self.narrow_to(step, no, &best.scope);
            }
        }
    }

    fn narrow_to(&mut self, step: &mut Step<'_>, no: u64, inner: &Scope) {
        let Some(case) = self.cases.get_mut(&no) else { return };
        let from = story::place_name(step.fleet, &case.scope);
        let to = story::place_name(step.fleet, inner);
        case.widen(inner.clone(), step.now);
        let what = format!("narrowed from {from} to {to}");
        case.timeline.push(Moment { at: UnixMillis(step.now), what });
        self.leave_outside(step, no);
        self.with(no, |case| {
            case.assess(step.fleet, step.now);
            let notify = case.tell_change(step.now, step.now + wait_of_change(inner));
            case.emit(TransitionEvent::Narrow, notify, step.fleet, step.now, step.out);
        });
    }

    /// Members outside the scope leave. Those that fail on keep what they have seen: their own
    /// incident has the right start.
    pub(super) fn leave_outside(&mut self, step: &mut Step<'_>, no: u64) {
        let Some(case) = self.cases.get_mut(&no) else { return };
        let is_outside = |site: &&SiteId| {
            let ix = step.fleet.find(**site);
            ix.is_none_or(|ix| !scope::holds_site(step.fleet, &case.scope, ix))
        };
        let outside: Vec<SiteId> = case.members.keys().filter(is_outside).copied().collect();
        for site in outside {
            if let Some(ix) =
                step.fleet.find(site).filter(|ix| step.fleet.site(*ix).case == Some(no))
            {
                let fails = scope::failing_evidence(step.fleet, ix) > scope::FAILING;
                let site = step.fleet.site_mut(ix);
                if fails {
                    site.case = None;
                } else {
                    site.leave_case(false);
                }
            }
            if let Some(member) = case.members.remove(&site) {
                case.left.push((site, member.since, member.until.unwrap_or(step.now)));
            }
        }
        if let Scope::Group(group) = &case.scope {
            case.failed.retain(|id| step.fleet.is_in(group, *id));
        } else {
            case.failed.clear();
        }
    }
}

/// What explains more inside an incident.
enum Inner<'a> {
    None,
    Several,
    Best(&'a Finding),
}

/// Whether sites of a server or a pool fail that the inner scope leaves out. Those of a quiet server
/// fail long after anybody asked for them: silence beside the inner scope is no recovery.
fn fails_beside(fleet: &Fleet, outer: &Scope, inner: &Scope) -> bool {
    let sites = match outer {
        Scope::Server(id) | Scope::Pool(Pool::Local(id, _)) => {
            fleet.server(*id).map_or(&[][..], |server| &server.sites)
        }
        Scope::Pool(Pool::Upstream(address)) => fleet.users(address),
        Scope::Group(_) | Scope::Site(_) => return false,
    };
    let beside = sites
        .iter()
        .copied()
        .filter(|ix| scope::holds_site(fleet, outer, *ix) && !scope::holds_site(fleet, inner, *ix));
    scope::unfaded(fleet, beside) > 0.0
}

/// The oldest group inside a group, else the only finding inside. The id is the oldest story's: of
/// groups that began together the one that explains most has it, the others open by themselves.
fn best_inner<'a>(fleet: &Fleet, no: u64, case: &Case, findings: &'a [Finding]) -> Inner<'a> {
    let is_own = |finding: &Finding| {
        finding.failing.iter().any(|ix| fleet.site(*ix).case.is_none_or(|of| of == no))
    };
    let is_inside = |finding: &&Finding| {
        is_own(finding)
            && (scope::contains(fleet, &case.scope, &finding.scope)
                || is_part(fleet, case, finding))
    };
    let inner: Vec<&Finding> = findings.iter().filter(is_inside).collect();
    let groups = || inner.iter().filter(|finding| matches!(finding.scope, Scope::Group(_)));
    let start = |finding: &&&Finding| start_of(fleet, &finding.failing);
    let first = groups().map(|finding| start(&finding)).min().unwrap_or(0);
    let oldest = groups().filter(|finding| start(finding) <= first + TOGETHER_MS);
    let best = oldest.max_by(|a, b| a.score.total_cmp(&b.score));
    match (best, &inner[..]) {
        (Some(best), _) => Inner::Best(best),
        (None, []) => Inner::None,
        (None, [only]) => Inner::Best(only),
        (None, _) => Inner::Several,
    }
}

/// Whether a group that overlaps the group of an incident explains mostly what failed there.
fn is_part(fleet: &Fleet, case: &Case, finding: &Finding) -> bool {
    let (Scope::Group(_), Scope::Group(_)) = (&case.scope, &finding.scope) else { return false };
    let servers = scope::servers_of(fleet, &finding.failing);
    2 * case.failed.intersection(&servers).count() > servers.len()
}

fn narrow_after(case: &Case, inner: &Scope, now: i64) -> i64 {
    let young = case.group_since.is_some_and(|since| now - since <= YOUNG_GROUP_MS);
    match inner {
        Scope::Group(_) if young => NARROW_GROUP_AFTER_MS,
        _ => NARROW_AFTER_MS,
    }
}
