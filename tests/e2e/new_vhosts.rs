//! Sites come and go while the agent runs, and it follows within 2 s.

use std::time::Duration;

use harness::{AgentSpec, Backends, Fault, Fleet, Nginx, Root, Seen, Volley, eventually, instant};
use wire::v1::Signal as S;

use crate::farm::{LIMIT, difference};
use crate::faults::{assert_discovers, known};

/// A change is noticed within 2 s, and what it brings is sent with the next batch.
const NOTICED: Duration = Duration::from_millis(2_200);

#[test]
fn a_site_added_while_the_agent_runs_is_followed_within_2_s_and_a_removed_one_is_forgotten() {
    const LOG: &str = "var/log/nginx/*.access.log";
    let root = Root::new();
    let backends = Backends::start(&root, &[Fault::Answers(200), Fault::Refused]);
    let [old, new] = backends.sites() else { panic!("two faults, two sites") };
    let nginx = Nginx::start_proxy(&root, std::slice::from_ref(old));
    let agent = AgentSpec::new("web-1").root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let volley = Volley::at(nginx.address());
    let mut seen = Seen::default();
    let stored = |seen: &Seen| {
        eventually("the database holds what the clients saw", LIMIT, || {
            let diff = difference(&seen.by_site_and_status(), &fleet.db().requests("web-1"));
            if diff.is_empty() { Ok(()) } else { Err(diff) }
        });
    };
    let knows = |names: &[&str]| {
        eventually("the inventory is of today", LIMIT, || {
            let have = fleet.db().inventory("web-1");
            if have == names { Ok(()) } else { Err(format!("{have:?}")) }
        });
    };
    seen.add(volley.fire(&[(old.name.clone(), 3)]));
    stored(&seen);
    knows(&[&old.name]);

    nginx.add_site(&root, new);
    nginx.reload();
    seen.add(volley.fire(&[(new.name.clone(), 4)]));
    assert_eq!(seen.n(&new.name, 502), 4, "{seen:?}");
    // What nginx took to read its configuration is not the agent's time.
    let written = instant();
    stored(&seen);
    let took = written.elapsed();
    assert!(took <= NOTICED, "the first requests of a new site were stored after {took:?}");
    knows(&[&old.name, &new.name]);
    let signals = fleet.db().signals("web-1");
    let refused = (new.name.clone(), 502, S::ConnectRefused.name());
    assert_eq!(signals.into_iter().collect::<Vec<_>>(), [(refused, 4)]);
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));

    nginx.remove_site(&new.name);
    let removed = instant();
    knows(&[&old.name]);
    let took = removed.elapsed();
    assert!(took <= NOTICED, "the removed site was forgotten after {took:?}");
    nginx.reload();
    seen.add(volley.fire(&[(old.name.clone(), 2)]));
    stored(&seen);
    assert_discovers(&fleet, &root, known(std::slice::from_ref(old), LOG));
}
