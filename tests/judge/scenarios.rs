//! The worlds that are judged, by name; each is drawn anew for every seed.

mod single;
mod groups;
mod overlaps;
mod lifecycle;
mod calm;

use crate::world::World;

/// One kind of world.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Seeds in CI.
    pub(crate) n_seeds: u64,
    pub(crate) build: fn(&str, u64) -> World,
}

const fn scenario(name: &'static str, n_seeds: u64, build: fn(&str, u64) -> World) -> Scenario {
    Scenario { name, n_seeds, build }
}

/// Every scenario.
pub(crate) fn all() -> Vec<Scenario> {
    [single::ALL, groups::ALL, overlaps::ALL, lifecycle::ALL, calm::ALL].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::play;

    #[test]
    fn every_scenario_has_its_own_name_and_plays_some_traffic() {
        let mut names: Vec<&str> = all().iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n);
        assert!(n > 60, "only {n}");
    }

    #[test]
    fn outages_of_the_small_scenarios_leave_failed_requests_where_their_label_says() {
        for name in ["site_crash", "pool_overload", "server_oom", "upstream_down"] {
            let scenario = all().into_iter().find(|scenario| scenario.name == name).unwrap();
            let (_, labels) = play(&(scenario.build)(name, 1));
            let outage = labels.iter().find(|outage| outage.required).unwrap();
            assert!(outage.n_failed > 7 && !outage.sites.is_empty(), "{name}");
            assert!(outage.first_at.unwrap() >= outage.from, "{name}");
            assert!(!outage.answers.is_empty() && outage.causes.len() == 1, "{name}");
        }
    }
}
