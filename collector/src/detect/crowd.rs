//! A bound on what one server may open at once, so that none keeps the others waiting.

use std::collections::BTreeMap;

use super::Fleet;
use super::scope::{Finding, Pool, Scope};
use crate::model::ServerId;

/// Sites and pools of one server that may have incidents of their own at the same time. Where more
/// fail for reasons of their own, the operator has seen enough to look.
pub const PARTS_MAX: usize = 100;

/// Leaves out what a server has beyond [`PARTS_MAX`]: first what has no incident yet, of that the
/// weakest. Gives how many were left out.
pub(super) fn thin(fleet: &Fleet, findings: &mut Vec<Finding>) -> usize {
    let mut parts: BTreeMap<ServerId, Vec<usize>> = BTreeMap::new();
    for (ix, finding) in findings.iter().enumerate() {
        let is_part = matches!(finding.scope, Scope::Site(_) | Scope::Pool(Pool::Local(..)));
        if let (true, Some(first)) = (is_part, finding.failing.first()) {
            parts.entry(fleet.site(*first).server).or_default().push(ix);
        }
    }
    let mut dropped = vec![false; findings.len()];
    for mut parts in parts.into_values().filter(|parts| parts.len() > PARTS_MAX) {
        let is_new = |ix: &usize| {
            let sites = findings[*ix].failing.iter();
            !sites.clone().any(|site| fleet.site(*site).case.is_some())
        };
        parts.sort_by(|a, b| {
            let by_score = findings[*b].score.total_cmp(&findings[*a].score);
            is_new(a).cmp(&is_new(b)).then(by_score).then(a.cmp(b))
        });
        parts[PARTS_MAX..].iter().for_each(|ix| dropped[*ix] = true);
    }
    let mut gone = dropped.iter();
    findings.retain(|_| gone.next() == Some(&false));
    dropped.iter().filter(|gone| **gone).count()
}
