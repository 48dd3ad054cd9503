//! nginx in front of groups of servers: a retry that hid a failure from the visitor is counted as such,
//! and a group that is down altogether is one failure for each request, not one for each member.

use std::collections::BTreeMap;

use harness::{
    AgentSpec, Backends, Fault, Fleet, Nginx, ProxySite, Root, UpstreamGroup, Volley, eventually,
};
use wire::signal::counter::RETRIED;
use wire::v1::Signal as S;

use crate::farm::{LIMIT, difference};

#[test]
fn a_retry_that_hid_a_failure_is_counted_and_a_group_that_is_down_fails_once_for_each_request() {
    let root = Root::new();
    let faults = [Fault::Answers(200), Fault::Reset, Fault::Refused, Fault::DeadSocket];
    let backends = Backends::start(&root, &faults);
    let [good, reset, refused, dead] = backends.sites() else { panic!("four faults, four sites") };
    let group = |name: &str, members: &[&ProxySite], backup: Option<&ProxySite>| UpstreamGroup {
        name: name.to_owned(),
        members: members.iter().filter_map(|site| site.upstream.clone()).collect(),
        backup: backup.and_then(|site| site.upstream.clone()),
    };
    let groups = [
        group("whole.test", &[good], None),
        group("refused.test", &[refused], Some(good)),
        group("reset.test", &[reset], Some(good)),
        group("down.test", &[refused, dead], None),
    ];
    let nginx = Nginx::start_groups(&root, &groups);
    let agent = AgentSpec::new("web-1").root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let plan = [2, 3, 4, 5].into_iter().zip(&groups).map(|(n, group)| (group.name.clone(), n));
    let seen = Volley::at(nginx.address()).fire(&plan.collect::<Vec<_>>());
    assert_eq!((seen.n_status(200), seen.n("down.test", 502)), (9, 5), "{seen:?}");
    eventually("the database holds what the clients saw", LIMIT, || {
        let diff = difference(&seen.by_site_and_status(), &fleet.db().requests("web-1"));
        if diff.is_empty() { Ok(()) } else { Err(diff) }
    });
    let mut counts = fleet.db().counts("web-1");
    counts.retain(|(_, status), _| *status >= 1000);
    let retried = |site: &str, n| ((site.to_owned(), RETRIED), n);
    assert_eq!(counts, BTreeMap::from([retried("refused.test", 3), retried("reset.test", 4)]));
    let refused = ("down.test".to_owned(), 502, S::ConnectRefused.name());
    assert_eq!(fleet.db().signals("web-1"), BTreeMap::from([(refused, 5)]));
}
