//! Another machine, as far as the network goes: a network namespace at the other end of a cable, with
//! its own addresses and its own firewall. It is gone in `Drop`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clock;
use crate::fleet::Output;
use crate::process::{Process, find_program};
use crate::root::Root;
use crate::wait::eventually;

/// The namespace, and what runs in it.
#[derive(Debug)]
pub struct Machine {
    name: String,
    /// Third byte of its network 10.209.x.0/24.
    net: u8,
    servers: Vec<Process>,
}

impl Machine {
    /// Makes one with the addresses `.2` and `.3`; this end of the cable has `.1`. Needs root.
    #[must_use]
    pub fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let seed = std::process::id().wrapping_mul(31) ^ clock::now_ms() as u32;
        for _ in 0..200 {
            let n = seed.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(7)) % 250;
            let machine =
                Self { name: format!("gwtest{n}"), net: n as u8 + 1, servers: Vec::new() };
            // Another test may have this one.
            if ip(&["netns", "add", &machine.name]).code == 0 {
                machine.plug_in();
                return machine;
            }
            std::mem::forget(machine); // it is not ours to remove
        }
        panic!("cannot make a network namespace: {:?}", ip(&["netns", "add", "gwtest-probe"]));
    }

    fn plug_in(&self) {
        let Self { name, net, .. } = self;
        let (here, there) = (format!("gwa{net}"), format!("gwb{net}"));
        good(&["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name]);
        good(&["address", "add", &format!("10.209.{net}.1/24"), "dev", &here]);
        good(&["link", "set", &here, "up"]);
        for host in [2, 3] {
            let address = format!("10.209.{net}.{host}/24");
            good(&["-n", name, "address", "add", &address, "dev", &there]);
        }
        good(&["-n", name, "link", "set", &there, "up"]);
        good(&["-n", name, "link", "set", "lo", "up"]);
    }

    /// Its address that ends in `host`.
    #[must_use]
    pub fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 209, self.net, host)
    }

    /// The same with a port.
    #[must_use]
    pub fn address(&self, host: u8, port: u16) -> SocketAddr {
        (self.ip(host), port).into()
    }

    /// Words that run a command, which follows them, in it.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let nsenter = find_program(&["nsenter"], "util-linux").display().to_string();
        vec![nsenter, format!("--net=/run/netns/{}", self.name)]
    }

    /// Starts a web server in it that listens at this port of all its addresses.
    pub fn serve(&mut self, root: &Root, port: u16) {
        let mut command = Command::new(find_program(&["ip"], "iproute2"));
        command.args(["netns", "exec", &self.name, "python3", "-m", "http.server"]);
        command.arg(port.to_string()).current_dir(root.mkdir("srv/far"));
        let log = root.mkdir("run").join("far.out");
        let mut server = Process::start("http.server", &mut command, &log);
        server.listens_on(self.address(2, port));
        self.servers.push(server);
    }

    /// Kills all servers in it: its ports refuse connections.
    pub fn stop_serving(&mut self) {
        self.servers.clear();
    }

    /// Loads a ruleset of nftables into its firewall.
    pub fn firewall(&self, rules: &str) {
        let nft = find_program(&["nft"], "nftables").display().to_string();
        let done = ip(&["netns", "exec", &self.name, &nft, rules]);
        assert_eq!(done.code, 0, "{rules}: {done:?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.servers.clear();
        // The cable ends with the namespace, once the last packet has left it.
        let here = format!("gwa{}", self.net);
        ip(&["link", "del", &here]);
        ip(&["netns", "del", &self.name]);
        if !std::thread::panicking() {
            eventually("the cable is gone", Duration::from_secs(20), || {
                let left = ip(&["link", "show", &here]);
                if left.code == 0 { Err(left.stdout) } else { Ok(()) }
            });
        }
    }
}

fn ip(words: &[&str]) -> Output {
    Output::of(Command::new(find_program(&["ip"], "iproute2")).args(words))
}

fn good(words: &[&str]) {
    let done = ip(words);
    assert_eq!(done.code, 0, "ip {words:?}: {done:?}");
}
