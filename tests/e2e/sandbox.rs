//! An agent in the sandbox its unit asks for, as far as it can be made without systemd: everything
//! read-only but its own directory, a `/dev` with nothing in it, no capabilities, an ordinary user.

use std::fs;

use harness::{AgentSpec, Fleet, Nginx, PhpFpm, Pool, Root, Vhost, eventually, is_root};

use crate::farm::LIMIT;

const NAME: &str = "web-1";

/// Makes the sandbox in a mount namespace of its own and runs the rest of the arguments in it, as
/// nobody in group adm. The working directory is the agent's; only `state` below it stays writable.
const ENTER: &str = r#"
set -e
state=$PWD/state dev=$PWD/dev program=$1
shift
[ -e "$PWD/agent" ] || cp "$program" "$PWD/agent"
chown -R 65534:65534 "$state"
mkdir -p "$dev"
mount --bind "$state" "$state"
mount -t tmpfs -o mode=755 sandbox "$dev"
for name in null zero full random urandom; do
    : >"$dev/$name"
    mount --bind "/dev/$name" "$dev/$name"
done
mkdir "$dev/shm"
mount --move "$dev" /dev
while read -r _ _ _ _ at _; do
    case $at in
    /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | "$state") ;;
    *) mount -o remount,bind,ro "$at" ;;
    esac
done </proc/self/mountinfo
exec setpriv --reuid=65534 --regid=65534 --groups=4 --no-new-privs --bounding-set=-all --inh-caps=-all \
    "$PWD/agent" "$@"
"#;

/// What is stored: metrics with a value, units with a state.
fn stored(fleet: &Fleet) -> Result<(Vec<String>, Vec<String>), String> {
    let bodies = fleet.db().bodies(NAME)?;
    let of_ticks = bodies.iter().flat_map(|body| {
        let ixs = body.ticks.iter().flat_map(|tick| &tick.series);
        ixs.map(|ix| body.series[*ix as usize].metric.clone())
    });
    let services = bodies.iter().flat_map(|body| &body.services);
    Ok((of_ticks.collect(), services.map(|service| service.unit.clone()).collect()))
}

#[test]
fn an_agent_in_its_sandbox_records_resources_pools_and_services() {
    assert!(is_root(), "only root makes mount namespaces: run the tests as root");
    let root = Root::new();
    root.write("var/log/php8.2-fpm.log", "");
    let _php = PhpFpm::start(&root, &[Pool::new("www")]);
    let _nginx = Nginx::start(&root, &Vhost::many("www", 1));
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sandbox"];
    let agent = AgentSpec::new(NAME).root(&root).wrapper(&wrapper);
    let agent = agent.toml("[probes]\ninterval = \"1s\"\n");
    let fleet = Fleet::builder().agent(agent).batch_interval("500ms").start();
    let pid = fleet.agent(NAME).process().pid();

    // It is where it should be.
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
    let status = read("status");
    let has = |label: &str, value: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(label));
        line.is_some_and(|line| line.split_whitespace().next() == Some(value))
    };
    assert!(has("Uid:", "65534") && has("NoNewPrivs:", "1"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert!(has(set, "0000000000000000"), "{status}");
    }
    let dev = fs::read_dir(format!("/proc/{pid}/root/dev")).expect("it has one").flatten();
    let mut names: Vec<_> = dev.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["full", "null", "random", "shm", "urandom", "zero"]);
    let mounts = read("mountinfo");
    let options = |at: &str| {
        let mut its = mounts.lines().filter(|line| line.split(' ').nth(4) == Some(at));
        its.next_back().and_then(|line| line.split(' ').nth(5)).unwrap_or_default().to_owned()
    };
    assert!(options("/").starts_with("ro"), "{mounts}");

    let wanted = [
        "system.cpu.utilization",
        "system.memory.utilization",
        "system.filesystem.utilization",
        "system.network.io.receive",
        "phpfpm.max_children",
        "phpfpm.total_processes",
        "gatewatch.agent.memory",
    ];
    eventually("resources, pools and services are stored", LIMIT, || {
        let (metrics, units) = stored(&fleet)?;
        let missing: Vec<_> =
            wanted.iter().filter(|name| !metrics.iter().any(|metric| metric == *name)).collect();
        let has = |name: &str| units.iter().any(|unit| unit.contains(name));
        if missing.is_empty() && has("php-fpm") && has("nginx") {
            return Ok(());
        }
        let metrics: std::collections::BTreeSet<_> = metrics.iter().collect();
        Err(format!("{missing:?} of {metrics:?}, {units:?}\n{}", fleet.agent(NAME).log_text()))
    });
}
