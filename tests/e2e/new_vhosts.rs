//! Sites come and go while the agent runs, and it follows within 2 s.

use std::time::Duration;

use harness::{AgentSpec, Backends, Fault, Fleet, Nginx, Root, Seen, Volley, eventually, instant};
use wire::v1::Signal as S;

use crate::farm::{LIMIT, difference};
use crate::faults::{assert_discovers, known};

/// A change is noticed within 2 s, and what it brings is sent with the next batch.
const NOTICED: Duration = Duration::from_millis(2_200);

#[test]
fn sites_added_while_the_agent_runs_are_followed_within_2_s_and_removed_ones_are_forgotten() {
    const LOG: &str = "var/log/nginx/*.access.log";
    let faults = [Fault::Answers(200), Fault::Refused, Fault::Closed, Fault::BadHeader];
    let root = Root::new();
    let backends = Backends::start(&root, &faults);
    let (old, new) = backends.sites().split_first().expect("four faults, four sites");
    let nginx = Nginx::start_proxy(&root, std::slice::from_ref(old));
    let agent = AgentSpec::new("web-1").root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let volley = Volley::at(nginx.address());
    let mut seen = volley.fire(&[(old.name.clone(), 3)]);
    let took_until_known = |names: Vec<&String>| {
        let mut names: Vec<_> = names.into_iter().cloned().collect();
        names.sort();
        let began = instant();
        eventually("the inventory is of today", LIMIT, || {
            let have = fleet.db().inventory("web-1");
            if have == names { Ok(began.elapsed()) } else { Err(format!("{have:?}")) }
        })
    };
    took_until_stored(&fleet, &seen);
    took_until_known(vec![&old.name]);

    let mut times = Vec::new();
    for site in new {
        nginx.add_site(&root, site);
        nginx.reload();
        seen.add(volley.fire(&[(site.name.clone(), 4)]));
        assert_eq!(seen.n(&site.name, 502), 4, "{seen:?}");
        // What nginx took to read its configuration is not the agent's time.
        times.push(took_until_stored(&fleet, &seen));
    }
    assert_quick("the first requests of a new site are stored", times);
    took_until_known(backends.sites().iter().map(|site| &site.name).collect());
    let signals = [S::ConnectRefused, S::PrematureClose, S::InvalidHeader].map(S::name);
    let truth = new.iter().zip(signals).map(|(site, signal)| ((site.name.clone(), 502, signal), 4));
    assert_eq!(fleet.db().signals("web-1"), truth.collect());
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));

    let mut times = Vec::new();
    for (n_gone, site) in new.iter().enumerate() {
        nginx.remove_site(&site.name);
        let left = new[n_gone + 1..].iter().chain([old]);
        times.push(took_until_known(left.map(|site| &site.name).collect()));
    }
    assert_quick("a removed site is forgotten", times);
    nginx.reload();
    seen.add(volley.fire(&[(old.name.clone(), 2)]));
    took_until_stored(&fleet, &seen);
    assert_discovers(&fleet, &root, known(std::slice::from_ref(old), LOG));
}

/// Waits until the database holds what the clients saw; returns how long that took.
fn took_until_stored(fleet: &Fleet, seen: &Seen) -> Duration {
    let began = instant();
    eventually("the database holds what the clients saw", LIMIT, || {
        let diff = difference(&seen.by_site_and_status(), &fleet.db().requests("web-1"));
        if diff.is_empty() { Ok(began.elapsed()) } else { Err(diff) }
    })
}

/// One of three may meet a busy machine.
fn assert_quick(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let median = times[times.len() / 2];
    assert!(median <= NOTICED, "{what} after {times:?}");
}
