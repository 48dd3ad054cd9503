//! How busy each pool's socket is, as the kernel has it: connections accepted, connections waiting.
//!
//! A worker of PHP-FPM serves one connection at a time, so accepted connections are busy workers. It
//! holds also when the pool is exhausted and its status page cannot answer. A connection that the web
//! server keeps open (`fastcgi_keep_conn`) occupies its worker too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::clock;
use crate::probes::sockets::{Lists, Name, Seen, State, Wanted};

/// After a look there is a pause of this many times the processor time it took: at most 0.3 % of a
/// processor, 3 ms a second. How long it took by the clock says how busy the machine is, which is just
/// when the next look is wanted.
const PAUSE_TIMES: u32 = 300;
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No pause is shorter: the next look is a second later at the earliest.
const PAUSE_MIN: Duration = Duration::from_millis(900);
/// While gateway errors flow there is one look a second, whatever it takes.
const PAUSE_FAST_MAX: Duration = PAUSE_MIN;
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(600);

/// What one pool's socket has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Accepted connections.
    pub(super) n_accepted: u32,
    /// Connections nobody has accepted yet.
    pub(super) n_waiting: u32,
    /// How many may wait, where the kernel tells.
    pub(super) limit: Option<u32>,
    /// Somebody accepts connections.
    pub(super) is_listening: bool,
    /// It may be made up.
    pub(super) is_doubtful: bool,
}

/// Where a pool listens, as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    Unix(Vec<u8>),
    Tcp(IpAddr, u16),
}

impl Address {
    /// `None` for names, which only the resolver could tell.
    pub(super) fn parse(listen: &str) -> Option<Self> {
        let listen = listen.trim().trim_start_matches("unix:");
        if listen.starts_with('/') {
            return Some(Self::Unix(usual(listen.as_bytes()).to_vec()));
        }
        let (host, port) = listen.rsplit_once(':').unwrap_or(("*", listen));
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let ip = match host.trim_matches(['[', ']']) {
            "" | "*" => Ipv4Addr::UNSPECIFIED.into(),
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            host => host.parse().ok()?,
        };
        Some(Self::Tcp(everywhere(ip), port))
    }
}

/// `/var/run` is `/run`.
fn usual(path: &[u8]) -> &[u8] {
    if path.starts_with(b"/var/run/") { &path[b"/var".len()..] } else { path }
}

fn everywhere(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() { Ipv4Addr::UNSPECIFIED.into() } else { ip }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    addresses: BTreeMap<Address, usize>,
    n_pools: usize,
    wanted: Wanted,
    lists: Lists,
    looked_at: Option<Instant>,
    pause: Duration,
    is_told: bool,
}

impl Sockets {
    /// Asks for these from now on; pools are told apart by their place in the list.
    pub(super) fn ask(&mut self, addresses: impl Iterator<Item = Option<Address>>) {
        self.addresses.clear();
        self.n_pools = 0;
        for (ix, address) in addresses.enumerate() {
            self.n_pools = ix + 1;
            if let Some(address) = address {
                self.addresses.entry(address).or_insert(ix);
            }
        }
        let ports = self.addresses.keys().filter_map(|address| match address {
            Address::Tcp(_, port) => Some(*port),
            Address::Unix(_) => None,
        });
        let ports = ports.fold(None, |range: Option<RangeInclusive<u16>>, port| {
            let range = range.unwrap_or(port..=port);
            Some(port.min(*range.start())..=port.max(*range.end()))
        });
        // Who listens everywhere may do so with a socket of either family.
        let has = |is: fn(&IpAddr) -> bool| {
            self.addresses.keys().any(|address| match address {
                Address::Tcp(ip, _) => ip.is_unspecified() || is(ip),
                Address::Unix(_) => false,
            })
        };
        let families = [has(IpAddr::is_ipv4), has(IpAddr::is_ipv6)];
        let unix = self.addresses.keys().any(|address| matches!(address, Address::Unix(_)));
        self.wanted = Wanted { listening_only: false, unix, ports, families };
    }

    /// What each pool's socket has now; `None` for those without a listener, or altogether when it
    /// cannot be told or another look would cost too much.
    pub(super) fn look(&mut self, is_fast: bool) -> Option<Vec<Option<Use>>> {
        let began = clock::instant();
        if self.addresses.is_empty() || self.rests(began, is_fast) {
            return None;
        }
        let cpu_time = clock::thread_cpu_time();
        let (addresses, n_pools) = (&self.addresses, self.n_pools);
        let start = || vec![Use::default(); n_pools];
        let note = |uses: &mut Vec<Use>, name: Name<'_>, seen| match name {
            Name::Unix(path) => note_unix(addresses, uses, path, seen),
            Name::Tcp(ip, port) => note_tcp(addresses, uses, (ip, port), seen),
        };
        let looked = self.lists.look(&self.wanted, began, start, note);
        self.looked_at = Some(began);
        self.pause = pause(clock::thread_cpu_time().saturating_sub(cpu_time));
        match looked {
            Ok(uses) => Some(uses.into_iter().map(Use::told).collect()),
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::info!(%error, "sockets cannot be listed: use of pools is absent");
                }
                self.pause = RETRY;
                None
            }
        }
    }

    fn rests(&self, now: Instant, is_fast: bool) -> bool {
        // What failed is not tried more often then.
        let is_short = is_fast && self.pause <= PAUSE_MAX;
        let pause = if is_short { self.pause.min(PAUSE_FAST_MAX) } else { self.pause };
        self.looked_at.is_some_and(|at| now < at + pause)
    }
}

/// After a look that took so much of a processor.
fn pause(cost: Duration) -> Duration {
    let pause = cost.saturating_mul(PAUSE_TIMES).min(PAUSE_MAX);
    if pause < PAUSE_MIN { Duration::ZERO } else { pause }
}

fn note_unix(addresses: &BTreeMap<Address, usize>, uses: &mut [Use], path: &[u8], seen: Seen) {
    if path.first() == Some(&b'/')
        && let Some(ix) = addresses.get(&Address::Unix(usual(path).to_vec()))
    {
        note(&mut uses[*ix], seen);
    }
}

/// An accepted connection belongs to who listens at its very address, else to who listens everywhere.
fn note_tcp(
    addresses: &BTreeMap<Address, usize>,
    uses: &mut [Use],
    (ip, port): (IpAddr, u16),
    seen: Seen,
) {
    let all: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let of = |ip| addresses.get(&Address::Tcp(ip, port));
    if let Some(ix) = of(everywhere(ip)).or_else(|| of(all)) {
        note(&mut uses[*ix], seen);
    }
}

fn note(one: &mut Use, seen: Seen) {
    match seen.state {
        State::Listens { queue, limit } => {
            one.is_listening = true;
            one.n_waiting = one.n_waiting.saturating_add(queue);
            one.limit = one.limit.max(limit);
        }
        State::Accepted => one.n_accepted = one.n_accepted.saturating_add(1),
        State::Waits => one.n_waiting = one.n_waiting.saturating_add(1),
        State::Doubtful => one.is_doubtful = true,
    }
}

impl Use {
    fn told(self) -> Option<Self> {
        (self.is_listening && !self.is_doubtful).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::probes::sockets::look_at_text;

    #[test]
    fn addresses_of_pools_are_understood() {
        let tcp = |ip: &str, port| Some(Address::Tcp(ip.parse().unwrap(), port));
        let unix = |path: &str| Some(Address::Unix(path.into()));
        let check = |listen: &str, want| assert_eq!(Address::parse(listen), want, "{listen}");
        check("/run/php/www.sock", unix("/run/php/www.sock"));
        check("/var/run/php/www.sock", unix("/run/php/www.sock"));
        check("unix:/run/php/www.sock", unix("/run/php/www.sock"));
        check("127.0.0.1:9000", tcp("127.0.0.1", 9000));
        check("9000", tcp("0.0.0.0", 9000));
        check("*:9000", tcp("0.0.0.0", 9000));
        check("[::]:9000", tcp("0.0.0.0", 9000));
        check("[::1]:9000", tcp("::1", 9000));
        check("localhost:9000", tcp("127.0.0.1", 9000));
        for none in ["", "app:9000", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "www.sock"] {
            check(none, None);
        }
    }

    /// What netlink and the text tell, which must be the same but for the limit.
    fn both_ways(sockets: &mut Sockets) -> Vec<Option<Use>> {
        let addresses = sockets.addresses.clone();
        let note = |uses: &mut [Use], name: Name<'_>, seen| match name {
            Name::Unix(path) => note_unix(&addresses, uses, path, seen),
            Name::Tcp(ip, port) => note_tcp(&addresses, uses, (ip, port), seen),
        };
        let mut with_diag = vec![Use::default(); sockets.n_pools];
        let mut with_text = with_diag.clone();
        let mut take = |name: Name<'_>, seen| note(&mut with_diag, name, seen);
        let is_offered = sockets.lists.look_with_diag(&sockets.wanted, clock::instant(), &mut take);
        assert!(is_offered, "sock_diag is offered");
        look_at_text(&sockets.wanted, &mut |name, seen| note(&mut with_text, name, seen)).unwrap();
        let with_diag: Vec<_> = with_diag.into_iter().map(Use::told).collect();
        let with_text: Vec<_> = with_text.into_iter().map(Use::told).collect();
        let without_limit = |one: &Option<Use>| one.map(|one| Use { limit: None, ..one });
        let want: Vec<_> = with_diag.iter().map(without_limit).collect();
        assert_eq!(with_text, want, "by text");
        with_diag
    }

    fn used(n_accepted: u32, n_waiting: u32, limit: Option<u32>) -> Use {
        Use { n_accepted, n_waiting, limit, is_listening: true, is_doubtful: false }
    }

    #[test]
    fn who_listens_everywhere_is_found_in_either_family() {
        // Where there is IPv6 this takes connections of both.
        let tcp = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let mut sockets = Sockets::default();
        sockets.ask([Address::parse(&port.to_string())].into_iter());
        let clients: Vec<_> =
            (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        let accepted = tcp.accept().unwrap();
        let seen = both_ways(&mut sockets)[0].map(|one| Use { limit: None, ..one });
        assert_eq!((seen, sockets.wanted.families), (Some(used(1, 2, None)), [true, true]));
        drop((clients, accepted));
        let mut check = |listens: [&str; 2], families, unix| {
            sockets.ask(listens.iter().map(|listen| Address::parse(listen)));
            assert_eq!((sockets.wanted.families, sockets.wanted.unix), (families, unix));
        };
        check(["127.0.0.1:9000", "/a.sock"], [true, false], true);
        check(["[::1]:9000", "app:1"], [false, true], false);
    }

    #[test]
    fn a_machine_that_is_saturated_does_not_make_the_looks_rarer() {
        let ms = Duration::from_millis;
        // However long it took by the clock: what counts is the processor's time.
        for (cost, want, fast) in [
            (ms(0), ms(0), ms(0)),
            (ms(2), ms(0), ms(0)),
            (ms(10), ms(3000), PAUSE_FAST_MAX),
            (ms(900), PAUSE_MAX, PAUSE_FAST_MAX),
        ] {
            assert_eq!(pause(cost), want, "{cost:?}");
            let now = clock::instant();
            let looked_at = Some(now);
            let sockets = Sockets { looked_at, pause: pause(cost), ..Sockets::default() };
            for (is_fast, rest) in [(false, want), (true, fast)] {
                assert!(!sockets.rests(now + rest, is_fast), "{cost:?}, fast {is_fast}");
                let is_resting = rest > Duration::ZERO;
                let before = (now + rest).checked_sub(ms(1)).unwrap().max(now);
                assert_eq!(sockets.rests(before, is_fast), is_resting, "{cost:?}, {is_fast}");
            }
        }
    }

    #[test]
    fn accepted_and_waiting_connections_of_real_sockets_are_counted_in_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let mut sockets = Sockets::default();
        let gone = dir.path().join("gone.sock").display().to_string();
        let listens = [path.display().to_string(), address.to_string(), gone];
        sockets.ask(listens.iter().map(|listen| Address::parse(listen)));
        let limits: Vec<_> = both_ways(&mut sockets).iter().map(|one| (*one)?.limit).collect();
        assert!(limits[0] >= Some(1) && limits[1] >= Some(1), "{limits:?}");
        let want = |n_accepted, n_waiting| {
            let of = |ix: usize| Some(used(n_accepted, n_waiting, limits[ix]));
            [of(0), of(1), None]
        };
        assert_eq!(both_ways(&mut sockets), want(0, 0), "idle");
        let mut clients: Vec<_> = (0..5)
            .map(|_| (UnixStream::connect(&path).unwrap(), TcpStream::connect(address).unwrap()))
            .collect();
        let accepted: Vec<_> =
            (0..2).map(|_| (unix.accept().unwrap(), tcp.accept().unwrap())).collect();
        assert_eq!(both_ways(&mut sockets), want(2, 3), "busy");
        // Who hangs up leaves the worker its request, and the queue its place.
        clients.remove(4);
        clients.remove(0);
        assert_eq!(both_ways(&mut sockets), want(2, 3), "hung up");
        drop((accepted, clients, unix));
        let looked = sockets.look(false).expect("a look is due");
        assert_eq!(looked[0], None, "nobody listens");
        assert!(looked[1].is_some());
        assert!(sockets.look(true).is_some(), "such a look costs next to nothing");
    }
}
