//! Whether places fail in the same way: one fault shows the same face everywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::Fleet;
use crate::model::ServerId;

/// Overlap of their mixtures of error lines from which two places fail alike.
const ALIKE: f64 = 0.2;

/// Shares of the kinds of error lines, 0..1, by kind.
pub(crate) type Mixture = BTreeMap<u8, f64>;

/// Whether the error lines of all these places are of a kind; places without lines say nothing.
pub(crate) fn all_alike(mixtures: &[Mixture]) -> bool {
    mixtures.iter().enumerate().all(|(ix, a)| mixtures[ix + 1..].iter().all(|b| are_alike(a, b)))
}

/// Whether two places fail alike.
pub(crate) fn are_alike(a: &Mixture, b: &Mixture) -> bool {
    let shared = |(kind, share): (&u8, &f64)| b.get(kind).map_or(0.0, |s| s.min(*share));
    a.iter().map(shared).sum::<f64>() >= ALIKE
}

/// Shares of the kinds of error lines of these sites; `None` when there are no lines.
pub(crate) fn mixture(fleet: &Fleet, sites: &[u32]) -> Option<Mixture> {
    let mut kinds = Mixture::new();
    for site in sites.iter().map(|ix| fleet.site(*ix)) {
        for (signal, lines) in &site.said.lines {
            if let Some(kind) = kind_of(*signal) {
                *kinds.entry(kind).or_default() += lines.n as f64;
            }
        }
    }
    let total: f64 = kinds.values().sum();
    for n in kinds.values_mut() {
        *n /= total;
    }
    (total > 0.0).then_some(kinds)
}

/// The mixture of most of several places, each counted once, however many lines it has; `None` when
/// none has lines.
pub(crate) fn average(mixtures: impl Iterator<Item = Mixture>) -> Option<Mixture> {
    let (mut sum, mut n) = (Mixture::new(), 0.0);
    for mixture in mixtures {
        n += 1.0;
        for (kind, share) in mixture {
            *sum.entry(kind).or_default() += share;
        }
    }
    for share in sum.values_mut() {
        *share /= n;
    }
    (n > 0.0).then_some(sum)
}

/// What the error lines of each server's sites say; servers without lines are left out.
pub(crate) fn by_server(fleet: &Fleet, sites: &[u32]) -> BTreeMap<ServerId, Mixture> {
    let mut of: BTreeMap<ServerId, Vec<u32>> = BTreeMap::new();
    for ix in sites {
        of.entry(fleet.site(*ix).server).or_default().push(*ix);
    }
    of.into_iter().filter_map(|(id, sites)| Some((id, mixture(fleet, &sites)?))).collect()
}

/// Those that fail in another way than all the others on average: with themselves in it, three
/// places with three faults would each be like a third of the average.
pub(crate) fn unlike(mixtures: &BTreeMap<ServerId, Mixture>) -> BTreeSet<ServerId> {
    let mut sum = Mixture::new();
    for (kind, share) in mixtures.values().flatten() {
        *sum.entry(*kind).or_default() += share;
    }
    let n_others = mixtures.len().saturating_sub(1) as f64;
    if n_others == 0.0 {
        return BTreeSet::new();
    }
    let differs = |own: &Mixture| {
        let others = sum.iter().map(|(kind, share)| {
            (*kind, (share - own.get(kind).copied().unwrap_or(0.0)) / n_others)
        });
        !are_alike(&others.collect(), own)
    };
    mixtures.iter().filter(|(_, own)| differs(own)).map(|(id, _)| *id).collect()
}

/// Families of signals that one fault may show side by side.
fn kind_of(signal: i32) -> Option<u8> {
    use wire::v1::Signal as S;
    Some(match S::try_from(signal).ok()? {
        S::ConnectRefused
        | S::NoSuchSocket
        | S::Reset
        | S::PrematureClose
        | S::NoLiveUpstreams
        | S::ServerDown
        | S::WorkerSignal => 0,
        S::BacklogFull | S::TimeoutRead | S::MaxChildren | S::TooManyConnections => 1,
        S::ConnectTimeout | S::Unreachable => 2,
        S::Dns => 3,
        S::Permission => 4,
        S::DiskFull => 5,
        S::TooBigHeader | S::InvalidHeader | S::Tls => 6,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_unlike_the_others_together_is_set_apart_and_of_three_faults_all_are() {
        let lines = |of: &[&[(u8, f64)]]| -> BTreeMap<ServerId, Mixture> {
            let mixtures = of.iter().map(|own| own.iter().copied().collect());
            (1..).map(ServerId).zip(mixtures).collect()
        };
        let (refused, slow, full): (&[_], &[_], &[_]) = (&[(0, 1.0)], &[(1, 1.0)], &[(5, 1.0)]);
        let mixed: &[_] = &[(0, 0.5), (1, 0.5)];
        for (of, want) in [
            (vec![], vec![]),
            (vec![refused], vec![]),
            (vec![refused, slow], vec![1, 2]),
            (vec![refused, slow, full], vec![1, 2, 3]),
            (vec![refused, refused, slow], vec![3]),
            (vec![refused, mixed, mixed, refused], vec![]),
            (vec![refused, refused, refused, mixed, full], vec![5]),
        ] {
            let apart: Vec<i64> = unlike(&lines(&of)).iter().map(|id| id.0).collect();
            assert_eq!(apart, want, "{of:?}");
        }
    }
}
