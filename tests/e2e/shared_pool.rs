//! One machine that answers for sites of four boxes: when it dies, that is one incident of the pool they
//! share, not one of each box.

use harness::{
    AgentSpec, FleetBuilder, Load, Machine, Nginx, ProxySite, Root, Seen, Upstream, Webhook,
};
use harness::{loopback, now_ms};

use crate::estate::{LIMIT, assert_counts, has_past, reaches, start_app, told_to};

const NAMES: [&str; 4] = ["web-1", "web-2", "web-3", "web-4"];
const PORT: u16 = 8080;

/// A box whose nginx passes three sites on to another machine, and answers for two by itself.
struct ProxyBox {
    root: Root,
    nginx: Nginx,
    far: Vec<String>,
    near: Vec<String>,
    _app: (Root, Nginx),
}

impl ProxyBox {
    fn start(name: &str, far: &Machine) -> Self {
        let (root, app_root, address) = (Root::new(), Root::new(), loopback(8000));
        let app = start_app(&app_root, address);
        let named =
            |word: &str, n: usize| (1..=n).map(|i| format!("{word}{i}.{name}.test")).collect();
        let (far_names, near): (Vec<String>, Vec<String>) = (named("far", 3), named("near", 2));
        let to = |names: &[String], address| {
            let site = |name: &String| ProxySite {
                name: name.clone(),
                upstream: Some(Upstream::Tcp(address)),
            };
            names.iter().map(site).collect::<Vec<_>>()
        };
        let sites = [to(&far_names, far.address(2, PORT)), to(&near, address)].concat();
        let nginx = Nginx::start_proxy(&root, &sites);
        Self { root, nginx, far: far_names, near, _app: (app_root, app) }
    }

    fn sites(&self) -> Vec<String> {
        [self.far.clone(), self.near.clone()].concat()
    }
}

#[test]
fn one_machine_that_dies_behind_four_boxes_is_one_incident_of_the_pool_they_share() {
    let far_root = Root::new();
    let mut far = Machine::start();
    far.serve(&far_root, PORT);
    let boxes: Vec<ProxyBox> = NAMES.iter().map(|name| ProxyBox::start(name, &far)).collect();
    let webhook = Webhook::start(0);
    let agent = |(name, one): (&&str, &ProxyBox)| {
        AgentSpec::new(name).root(&one.root).label("hypervisor", "hv-1").label("region", "eu")
    };
    let fleet = NAMES.iter().zip(&boxes).map(agent).fold(told_to(&webhook), FleetBuilder::agent);
    let fleet = fleet.start();
    let load = |one: &ProxyBox| Load::start(one.nginx.address(), &one.sites(), 3.0, "/");
    let loads: Vec<Load> = boxes.iter().map(load).collect();
    for (name, one) in NAMES.iter().zip(&boxes) {
        has_past(&fleet, name, &one.sites(), 8);
    }

    let truth = now_ms();
    far.stop_serving();
    let pool = far.address(2, PORT).to_string();
    let members = NAMES.map(|name| format!("{name}/{pool}"));
    let members = members.each_ref().map(String::as_str);
    let told =
        fleet.told("the shared pool fails", LIMIT, &webhook, |all| reaches(all, "pool", &members));
    told.assert_one_page_each();
    let open = told.only().clone();
    let mut sites: Vec<String> = boxes.iter().flat_map(|one| one.far.clone()).collect();
    sites.sort();
    assert_eq!(open.sites(), sites);
    assert!(open.json()["where"]["server"].is_null(), "{}", open.json());
    assert_eq!((open.text("/where/pool"), open.number("/affected/n_servers")), (&*pool, 4));
    assert!(open.text("/title").contains(" with 502 "), "{}", open.text("/title"));
    assert!((open.at_ms("/started_at") - truth).abs() <= 2000, "{}", open.json());

    far.serve(&far_root, PORT);
    let told = fleet.told("it is over", LIMIT, &webhook, |all| all.iter().all(|i| !i.is_open()));
    told.assert_told_from_start_to_end();
    let mut seen = Seen::default();
    for load in loads {
        seen.add(load.stop());
    }
    assert_eq!(told.only().id(), open.id());
    assert_counts(told.only(), &seen, &sites);
    for site in boxes.iter().flat_map(|one| &one.near) {
        assert_eq!(seen.n(site, 502), 0, "{site} does not use that machine");
    }
}
