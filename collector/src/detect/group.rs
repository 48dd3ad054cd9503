//! Which groups of servers share a fault: a pure search over candidate sets.
//!
//! Each server brings evidence in nats: above 0 it fails, below 0 it is well, 0 says nothing. The
//! score of a set is the log of a Bayes factor of "one fault for all" against "each by itself", so a
//! set pays for every member that is well. The best set is taken, its members are put aside, and
//! what is left is searched again.

use super::candidates::{Candidate, Candidates};
use super::cohort::Staging;
use super::scope::{FAILING, Group, child_factor};
use crate::model::ServerId;

/// Evidence up to here, of either sign, says nothing, nats.
pub const SAYS_NOTHING: f64 = 0.3;
/// Sets that are tried first beside the best one.
const ALTERNATIVES_MAX: usize = 6;
/// Sets this close that cover as many failing servers are told apart by their size, nats.
const TIE_NATS: f64 = 2.0;

/// When a set of servers is a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// P(server fails | shared fault).
    pub phi: f64,
    /// P(server fails by itself).
    pub eps: f64,
    /// Score at which a group is accepted, nats.
    pub accept_nats: f64,
    /// Failing servers it needs at least.
    pub n_failing_min: usize,
    /// Share of the members with evidence that must fail.
    pub share_min: f64,
    /// Groups found at once at most.
    pub n_groups_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            phi: 0.85,
            eps: 1e-3,
            accept_nats: 12.0,
            n_failing_min: 3,
            share_min: 0.6,
            n_groups_max: 4,
        }
    }
}

/// A group that explains what fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// What its servers share.
    pub group: Group,
    /// Log odds, nats.
    pub score: f64,
    /// All its servers.
    pub members: Vec<ServerId>,
    /// Those that fail.
    pub failing: Vec<ServerId>,
    /// How many are well.
    pub n_well: usize,
}

/// The groups that explain the evidence, the best first. `evidence` is by position in
/// `Candidates::servers`, nats, finite.
///
/// Costs O(lists of the candidates that hold enough failing servers), for each group found.
#[must_use]
pub fn search(candidates: &Candidates, evidence: &[f64], rules: &Rules) -> Vec<Accepted> {
    Search::new(candidates, evidence, rules).run()
}

/// One candidate as weighed.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// Log odds, nats.
    pub(crate) score: f64,
    /// Members that fail, and that are well.
    pub(crate) n_failing: usize,
    pub(crate) n_well: usize,
    /// Why it is no group; `None` when it is one.
    pub(crate) rejected: Option<String>,
}

/// A search in progress.
pub(crate) struct Search<'a> {
    candidates: &'a Candidates,
    rules: &'a Rules,
    /// Evidence of the servers that no accepted group holds; 0 for the others.
    evidence: Vec<f64>,
    factors: Vec<f64>,
    /// Servers that fail one after the other.
    staging: Staging,
    /// Further candidates: rollouts, and groups found before.
    further: Vec<&'a Candidate>,
    /// Groups found before that go on.
    open: &'a [Candidate],
    /// What was weighed first, for the trail.
    pub(crate) weighed: Vec<(Group, Weight)>,
    /// Members added up so far: the work done.
    pub(crate) n_added: u64,
}

impl<'a> Search<'a> {
    pub(crate) fn new(candidates: &'a Candidates, evidence: &[f64], rules: &'a Rules) -> Self {
        assert_eq!(evidence.len(), candidates.servers().len(), "evidence is by position");
        let factors = evidence.iter().map(|l| child_factor(*l, rules.phi, rules.eps)).collect();
        Self {
            candidates,
            rules,
            evidence: evidence.to_vec(),
            factors,
            staging: Staging::default(),
            further: Vec::new(),
            open: &[],
            weighed: Vec::new(),
            n_added: 0,
        }
    }

    /// Also finds starts one after the other.
    pub(crate) fn staged(mut self, staging: &'a Staging) -> Self {
        let rollouts = staging.rollouts().iter().map(|rollout| &rollout.candidate);
        let further = &mut self.further;
        further.extend(rollouts.filter(|c| !self.open.iter().any(|open| open.group == c.group)));
        self.staging = staging.clone();
        self
    }

    /// Keeps groups that go on from being fused by a set that holds several of them.
    pub(crate) fn beside(mut self, open: &'a [Candidate]) -> Self {
        let cohorts = open.iter().filter(|c| matches!(c.group, Group::Cohort(..)));
        self.further.extend(cohorts);
        self.open = open;
        self
    }

    /// The groups that explain most together. Taking the best set first may take one that cuts
    /// through two faults; so each of the best few is tried first, and the sums are compared.
    pub(crate) fn run(&mut self) -> Vec<Accepted> {
        let start = (self.evidence.clone(), self.factors.clone(), self.staging.clone());
        let good = self.good(true);
        let mut others: Vec<(Candidate, Weight)> =
            good.iter().map(|(candidate, weight)| ((*candidate).clone(), weight.clone())).collect();
        let Some(best) = pick(good).map(|(candidate, weight)| (candidate.clone(), weight)) else {
            return Vec::new();
        };
        let best = self.unless_open(best);
        others.retain(|(candidate, _)| candidate.members != best.0.members);
        others.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
        others.truncate(ALTERNATIVES_MAX);
        let plan = self.plan(&best.0, &best.1);
        if plan.iter().all(|group| group.n_well == 0) {
            // Other sets could only pay for more priors.
            return plan;
        }
        let mut plans = vec![plan];
        for first in others {
            (self.evidence, self.factors, self.staging) = start.clone();
            plans.push(self.plan(&first.0, &first.1));
        }
        pick_plan(plans)
    }

    /// What is found after this set is taken first.
    fn plan(&mut self, first: &Candidate, weight: &Weight) -> Vec<Accepted> {
        let mut accepted = vec![self.take(first, weight)];
        while accepted.len() < self.rules.n_groups_max {
            let best = pick(self.good(false));
            let Some((candidate, weight)) = best.map(|(c, weight)| (c.clone(), weight)) else {
                break;
            };
            let (candidate, weight) = self.unless_open((candidate, weight));
            accepted.push(self.take(&candidate, &weight));
        }
        accepted.sort_by(|a, b| b.score.total_cmp(&a.score));
        accepted
    }

    /// Candidates with enough failing servers, by number.
    fn likely(&self) -> Vec<u32> {
        let mut n_failing = vec![0_u32; self.candidates.list().len()];
        for (place, l) in (0_u32..).zip(&self.evidence) {
            if *l > FAILING {
                self.candidates.holding(place).iter().for_each(|no| n_failing[*no as usize] += 1);
            }
        }
        let enough = |n: &u32| *n as usize >= self.rules.n_failing_min;
        (0_u32..).zip(&n_failing).filter(|(_, n)| enough(n)).map(|(no, _)| no).collect()
    }

    /// Candidates that are groups, with their weights.
    fn good(&mut self, first: bool) -> Vec<(&'a Candidate, Weight)> {
        let (list, further) = (self.candidates.list(), self.further.clone());
        let mut good: Vec<(&Candidate, Weight)> = Vec::new();
        let likely = self.likely().into_iter().map(|no| &list[no as usize]);
        for candidate in likely.chain(further) {
            let weight = self.weigh(candidate);
            if first {
                self.weighed.push((candidate.group.clone(), weight.clone()));
            }
            if weight.rejected.is_none() {
                good.push((candidate, weight));
            }
        }
        good
    }

    /// A set that overlaps several groups that go on must explain more than they together; else the
    /// best of them is taken, so that two faults of neighbours do not fuse into one of both. What
    /// goes on has paid its prior: else a set of just these servers would always win by one prior.
    fn unless_open(&mut self, (best, weight): (Candidate, Weight)) -> (Candidate, Weight) {
        let overlaps = |open: &&Candidate| share(&open.members, &best.members);
        if self.open.len() < 2 || self.open.iter().any(|open| open.members == best.members) {
            return (best, weight);
        }
        let going_on: Vec<&Candidate> = self.open.iter().filter(overlaps).collect();
        let mut held: Vec<(&Candidate, Weight)> =
            going_on.into_iter().map(|open| (open, self.weigh(open))).collect();
        held.retain(|(_, weight)| weight.score >= self.rules.accept_nats);
        let together: f64 = held.iter().map(|(open, weight)| weight.score - open.prior).sum();
        if held.len() < 2 || weight.score > together {
            return (best, weight);
        }
        let top = held.into_iter().max_by(|a, b| a.1.score.total_cmp(&b.1.score));
        top.map_or((best, weight), |(open, weight)| (open.clone(), weight))
    }

    /// The shared-fault Bayes factor of a set, and whether it is a group.
    fn weigh(&mut self, candidate: &Candidate) -> Weight {
        let (mut score, mut n_failing, mut n_well, mut n_known) = (candidate.prior, 0, 0, 0);
        for place in &candidate.members {
            let l = self.evidence[*place as usize];
            score += self.factors[*place as usize];
            n_failing += usize::from(l > FAILING);
            n_well += usize::from(l < -SAYS_NOTHING);
            n_known += usize::from(l.abs() > SAYS_NOTHING);
        }
        self.n_added += candidate.members.len() as u64;
        let share = n_failing as f64 / n_known.max(1) as f64;
        let rules = self.rules;
        let staged = self.staging.score(candidate, &self.evidence, rules);
        let staged = staged.filter(|staged| *staged >= rules.accept_nats);
        let rejected = match () {
            () if n_failing < rules.n_failing_min => {
                Some(format!("{n_failing} failing servers, {} needed", rules.n_failing_min))
            }
            () if staged.is_some() => None,
            () if score < rules.accept_nats => {
                Some(format!("{score:.1} nats, {:.0} needed", rules.accept_nats))
            }
            () if share < rules.share_min => Some(format!(
                "{:.0} % of its known servers fail, {:.0} % needed",
                share * 100.0,
                rules.share_min * 100.0
            )),
            () => None,
        };
        // Where too many answer, only the staged start speaks for it.
        let score = match staged {
            Some(staged) if share < rules.share_min => staged,
            Some(staged) => staged.max(score),
            None => score,
        };
        Weight { score, n_failing, n_well, rejected }
    }

    /// Accepts a group and puts its members aside.
    fn take(&mut self, candidate: &Candidate, weight: &Weight) -> Accepted {
        let servers = self.candidates.servers();
        let id = |place: &u32| servers[*place as usize];
        let fails = |place: &&u32| self.evidence[**place as usize] > FAILING;
        let accepted = Accepted {
            group: candidate.group.clone(),
            score: weight.score,
            members: candidate.members.iter().map(id).collect(),
            failing: candidate.members.iter().filter(fails).map(id).collect(),
            n_well: weight.n_well,
        };
        for place in &candidate.members {
            self.evidence[*place as usize] = 0.0;
            self.factors[*place as usize] = 0.0;
        }
        self.staging.put_aside(&candidate.members);
        accepted
    }
}

/// Whether two rising lists share a number.
fn share(a: &[u32], b: &[u32]) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    short.iter().any(|place| long.binary_search(place).is_ok())
}

/// The groups that together score highest, and among those close to it, two nats for each group, that
/// cover as many failing servers those with the fewest servers.
fn pick_plan(plans: Vec<Vec<Accepted>>) -> Vec<Accepted> {
    let total = |plan: &Vec<Accepted>| plan.iter().map(|group| group.score).sum::<f64>();
    let n_failing = |plan: &[Accepted]| plan.iter().map(|g| g.failing.len()).sum::<usize>();
    let n_members = |plan: &Vec<Accepted>| plan.iter().map(|g| g.members.len()).sum::<usize>();
    let top = plans.iter().max_by(|a, b| total(a).total_cmp(&total(b)));
    let (score, covers) = top.map_or((0.0, 0), |plan| (total(plan), n_failing(plan)));
    let close = plans.into_iter().filter(|plan| {
        total(plan) >= score - TIE_NATS * plan.len() as f64 && n_failing(plan) >= covers
    });
    close.min_by_key(n_members).unwrap_or_default()
}

/// The best of these: the highest score, and among those close to it that cover as many failing
/// servers those that labels name, the fewest servers, the fewest labels, the most physical one.
fn pick(weighed: Vec<(&Candidate, Weight)>) -> Option<(&Candidate, Weight)> {
    let top = weighed.iter().max_by(|a, b| a.1.score.total_cmp(&b.1.score))?;
    let (top, covers) = (top.1.score, top.1.n_failing);
    let close = weighed
        .into_iter()
        .filter(|(_, weight)| weight.score >= top - TIE_NATS && weight.n_failing >= covers);
    close.min_by_key(|(candidate, _)| {
        let by_change = matches!(candidate.group, Group::Cohort(..));
        (by_change, candidate.members.len(), candidate.n_labels())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Fleet;
    use crate::detect::server::Server;
    use crate::incident::story::group_name;

    const LABELS: [&str; 4] = ["hypervisor", "rack", "region", "image"];

    /// Servers 0.. by their labels.
    fn fleet(n: usize, label: impl Fn(usize) -> Vec<(&'static str, String)>) -> Fleet {
        let mut fleet = Fleet::default();
        for ix in 0..n {
            let mut server = Server::new(ServerId(ix as i64));
            server.labels = label(ix).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            fleet.servers.insert(server.id, server);
        }
        fleet
    }

    /// 4 hypervisors a rack, 5 servers each; 2 regions, 3 images across them.
    fn usual(n: usize) -> Candidates {
        let fleet = fleet(n, |ix| {
            vec![
                ("hypervisor", format!("hv-{}", ix / 5)),
                ("rack", format!("r{}", ix / 20)),
                ("region", if ix < n / 2 { "eu".to_owned() } else { "us".to_owned() }),
                ("image", format!("i{}", ix % 3)),
            ]
        });
        Candidates::of(&fleet, &LABELS.map(str::to_owned))
    }

    fn found(candidates: &Candidates, evidence: impl Fn(usize) -> f64) -> Vec<(String, usize)> {
        let evidence = candidates.evidence(|id| evidence(id.0 as usize));
        let accepted = search(candidates, &evidence, &Rules::default());
        accepted.iter().map(|a| (group_name(&a.group), a.failing.len())).collect()
    }

    fn names(found: &[(String, usize)]) -> Vec<(&str, usize)> {
        found.iter().map(|(name, n)| (&**name, *n)).collect()
    }

    #[test]
    fn the_set_that_holds_the_failing_and_leaves_out_the_well_wins() {
        let fleet = usual(120);
        let check = |what: &str, evidence: &dyn Fn(usize) -> f64, want: &[(&str, usize)]| {
            assert_eq!(names(&found(&fleet, evidence)), want, "{what}");
        };
        let fails = |yes: bool| if yes { 12.0 } else { -4.0 };
        check("nothing", &|_| -4.0, &[]);
        check("no news at all", &|_| 0.0, &[]);
        check("one hypervisor", &|s| fails((10..15).contains(&s)), &[("hypervisor=hv-2", 5)]);
        check("one rack", &|s| fails((20..40).contains(&s)), &[("rack=r1", 20)]);
        check("one region", &|s| fails(s < 60), &[("region=eu", 60)]);
        check("one image", &|s| fails(s % 3 == 1), &[("image=i1", 40)]);
        check(
            "a region's servers of one image",
            &|s| fails(s < 60 && s % 3 == 1),
            &[("image=i1 region=eu", 20)],
        );
        check("everything", &|_| 12.0, &[("all", 120)]);
        check(
            "two hypervisors of different racks",
            &|s| fails((10..15).contains(&s) || (85..90).contains(&s)),
            &[("hypervisor=hv-17", 5), ("hypervisor=hv-2", 5)],
        );
        check(
            "four of five on a hypervisor, one unknown",
            &|s| if s == 12 { 0.0 } else { fails((10..15).contains(&s)) },
            &[("hypervisor=hv-2", 4)],
        );
        check("two servers of a hypervisor", &|s| fails(s == 10 || s == 11), &[]);
        check(
            "three stray failures on servers of one hypervisor",
            &|s| if (10..13).contains(&s) { 2.7 } else { -1.0 },
            &[],
        );
        check(
            "two of five on each hypervisor of a rack are not the rack",
            &|s| fails((20..40).contains(&s) && s % 5 < 2),
            &[],
        );
        check(
            "six of ten known servers of two hypervisors, the others silent",
            &|s| match s {
                20..26 => 12.0,
                26..30 => 0.0,
                _ => -4.0,
            },
            &[("hypervisor=hv-4", 5)],
        );
    }

    #[test]
    fn order_of_the_groups_is_best_first_and_never_more_than_four() {
        let fleet = usual(200);
        let hit = |s: usize| s % 20 < 5 && s / 20 < 6;
        let found = found(&fleet, |s| if hit(s) { 12.0 } else { -4.0 });
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.iter().all(|(name, n)| name.starts_with("hypervisor=") && *n == 5));
    }

    #[test]
    fn two_servers_and_none_find_nothing_and_do_not_crash() {
        for n in 0..3 {
            assert_eq!(found(&usual(n), |_| 12.0), [], "{n} servers");
        }
        let three = Candidates::of(&fleet(3, |_| Vec::new()), &LABELS.map(str::to_owned));
        assert_eq!(names(&found(&three, |_| 12.0)), [("all", 3)]);
    }

    #[test]
    fn work_grows_with_what_fails_not_with_the_fleet_times_its_candidates() {
        let candidates = usual(10_000);
        assert!(candidates.list().len() > 2_500, "{}", candidates.list().len());
        let rules = Rules::default();
        let evidence = |hit: &dyn Fn(usize) -> bool| {
            candidates.evidence(|id| if hit(id.0 as usize) { 12.0 } else { -4.0 })
        };
        let hypervisor = evidence(&|s| (500..505).contains(&s));
        let mut search = Search::new(&candidates, &hypervisor, &rules);
        assert_eq!(search.run().len(), 1);
        // Its own list, its rack's, its region's, three images', pairs of them, and all servers.
        assert!(search.n_added < 3 * 10_000, "{}", search.n_added);
        let everything = evidence(&|_| true);
        let mut search = Search::new(&candidates, &everything, &rules);
        assert_eq!(search.run().len(), 1);
        assert!(search.n_added < 12 * 10_000, "{}", search.n_added);
    }
}
