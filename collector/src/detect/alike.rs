//! Whether places fail in the same way: one fault shows the same face everywhere.

use std::collections::BTreeMap;

use super::Fleet;

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
