//! How busy each pool's socket is, as the kernel has it: connections accepted, connections waiting.
//!
//! A worker of PHP-FPM serves one connection at a time, so accepted connections are busy workers. It
//! holds also when the pool is exhausted and its status page cannot answer. A connection that the web
//! server keeps open (`fastcgi_keep_conn`) occupies its worker too.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::diag::Diag;
use super::text;
use crate::clock;

/// After a look that took long there is a pause of this many times its length: at most 0.3 % of a
/// processor, 3 ms a second.
const PAUSE_TIMES: u32 = 300;
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a refusal `sock_diag` is asked again, and what failed is tried again.
const RETRY: Duration = Duration::from_secs(600);

/// One socket of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(pub(super) State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Accepts connections; `queue` wait, of at most `limit` where it is told.
    Listens { queue: u32, limit: Option<u32> },
    /// Somebody has accepted it.
    Accepted,
    /// Waits in the queue; only the text of Unix sockets lists these.
    Waits,
}

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
    ports: Option<RangeInclusive<u16>>,
    /// Whether a socket of IPv4, of IPv6 can be one of the pools'.
    families: [bool; 2],
    has_unix: bool,
    uses: Vec<Use>,
    diag: Option<Diag>,
    diag_refused_at: Option<Instant>,
    rests_until: Option<Instant>,
    is_told: bool,
}

impl Sockets {
    /// Asks for these from now on; pools are told apart by their place in the list.
    pub(super) fn ask(&mut self, addresses: impl Iterator<Item = Option<Address>>) {
        self.addresses.clear();
        self.uses.clear();
        for (ix, address) in addresses.enumerate() {
            self.uses.push(Use::default());
            if let Some(address) = address {
                self.addresses.entry(address).or_insert(ix);
            }
        }
        let ports = self.addresses.keys().filter_map(|address| match address {
            Address::Tcp(_, port) => Some(*port),
            Address::Unix(_) => None,
        });
        self.ports = ports.fold(None, |range: Option<RangeInclusive<u16>>, port| {
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
        self.families = [has(IpAddr::is_ipv4), has(IpAddr::is_ipv6)];
        self.has_unix = self.addresses.keys().any(|address| matches!(address, Address::Unix(_)));
    }

    /// What each pool's socket has now; `None` for those without a listener, or altogether when it
    /// cannot be told or another look would cost too much.
    pub(super) fn look(&mut self) -> Option<Vec<Option<Use>>> {
        let began = clock::instant();
        if self.addresses.is_empty() || self.rests_until.is_some_and(|until| began < until) {
            return None;
        }
        self.uses.fill(Use::default());
        let looked = self.look_with_diag(began).unwrap_or_else(|| self.look_at_text());
        let cost = clock::instant().saturating_duration_since(began);
        let pause = cost.saturating_mul(PAUSE_TIMES).min(PAUSE_MAX);
        self.rests_until = Some(began + pause);
        if let Err(error) = looked {
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::info!(%error, "sockets cannot be listed: use of pools is absent");
            }
            self.rests_until = Some(began + RETRY);
            return None;
        }
        Some(self.uses.iter().map(|one| one.is_listening.then_some(*one)).collect())
    }

    /// `None` when the kernel, the container or the sandbox does not offer it.
    fn look_with_diag(&mut self, now: Instant) -> Option<io::Result<()>> {
        if self.diag_refused_at.is_some_and(|at| now < at + RETRY) {
            return None;
        }
        let asked = self.diag.take().map_or_else(Diag::open, Ok).and_then(|mut diag| {
            let (addresses, uses) = (&self.addresses, &mut self.uses);
            if self.has_unix {
                diag.unix(&mut |path, seen| note_unix(addresses, uses, path, seen))?;
            }
            if let Some(ports) = &self.ports {
                let families = self.families;
                let note = &mut |address, seen| note_tcp(addresses, uses, address, seen);
                diag.tcp(families, ports, note)?;
            }
            Ok(diag)
        });
        match asked {
            Ok(diag) => {
                self.diag = Some(diag);
                Some(Ok(()))
            }
            Err(error) => {
                tracing::debug!(%error, "sock_diag is not offered: /proc/net is read instead");
                self.diag_refused_at = Some(now);
                self.uses.fill(Use::default());
                None
            }
        }
    }

    fn look_at_text(&mut self) -> io::Result<()> {
        let (addresses, uses) = (&self.addresses, &mut self.uses);
        if self.has_unix {
            text::unix(&mut |path, seen| note_unix(addresses, uses, path, seen))?;
        }
        if self.ports.is_some() {
            text::tcp(&mut |address, seen| note_tcp(addresses, uses, address, seen))?;
        }
        Ok(())
    }
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

fn note(one: &mut Use, Seen(state): Seen) {
    match state {
        State::Listens { queue, limit } => {
            one.is_listening = true;
            one.n_waiting = one.n_waiting.saturating_add(queue);
            one.limit = one.limit.max(limit);
        }
        State::Accepted => one.n_accepted = one.n_accepted.saturating_add(1),
        State::Waits => one.n_waiting = one.n_waiting.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

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

    /// Two connections accepted, three waiting, one of either closed by its client.
    fn check_both_ways(sockets: &mut Sockets, want: &[Option<Use>], why: &str) {
        let now = clock::instant();
        sockets.look_with_diag(now).expect("sock_diag is offered").unwrap();
        let listening = |one: &Use| one.is_listening.then_some(*one);
        let with_diag: Vec<_> = sockets.uses.iter().map(listening).collect();
        assert_eq!(with_diag, want, "{why}, with sock_diag");
        sockets.uses.fill(Use::default());
        sockets.look_at_text().unwrap();
        let with_text: Vec<_> = sockets.uses.iter().map(listening).collect();
        let without_limit = |one: Use| Use { limit: None, ..one };
        let want: Vec<_> = want.iter().map(|one| one.map(without_limit)).collect();
        assert_eq!(with_text, want, "{why}, by text");
        sockets.uses.fill(Use::default());
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
        let one = Use { n_accepted: 1, n_waiting: 2, is_listening: true, limit: None };
        sockets.look_with_diag(clock::instant()).expect("sock_diag is offered").unwrap();
        let seen = Use { limit: None, ..sockets.uses[0] };
        assert_eq!((seen, sockets.families), (one, [true, true]));
        sockets.uses.fill(Use::default());
        sockets.look_at_text().unwrap();
        assert_eq!(sockets.uses, [one]);
        drop((clients, accepted));
        sockets.ask([Address::parse("127.0.0.1:9000"), Address::parse("/a.sock")].into_iter());
        assert_eq!((sockets.families, sockets.has_unix), ([true, false], true));
        sockets.ask([Address::parse("[::1]:9000")].into_iter());
        assert_eq!((sockets.families, sockets.has_unix), ([false, true], false));
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
        sockets.look_with_diag(clock::instant()).unwrap().unwrap();
        let limits: Vec<_> = sockets.uses.iter().map(|one| one.limit).collect();
        assert!(limits[0] >= Some(1) && limits[1] >= Some(1), "{limits:?}");
        sockets.uses.fill(Use::default());
        let use_of = |ix: usize, n_accepted, n_waiting| {
            Some(Use { limit: limits[ix], n_accepted, n_waiting, is_listening: true })
        };
        check_both_ways(&mut sockets, &[use_of(0, 0, 0), use_of(1, 0, 0), None], "idle");
        let mut clients: Vec<_> = (0..5)
            .map(|_| (UnixStream::connect(&path).unwrap(), TcpStream::connect(address).unwrap()))
            .collect();
        let accepted: Vec<_> =
            (0..2).map(|_| (unix.accept().unwrap(), tcp.accept().unwrap())).collect();
        check_both_ways(&mut sockets, &[use_of(0, 2, 3), use_of(1, 2, 3), None], "busy");
        // Who hangs up leaves the worker its request, and the queue its place.
        clients.remove(4);
        clients.remove(0);
        check_both_ways(&mut sockets, &[use_of(0, 2, 3), use_of(1, 2, 3), None], "hung up");
        drop((accepted, clients, unix));
        let looked = sockets.look().expect("a look is due");
        assert_eq!(looked[0], None, "nobody listens");
        assert!(looked[1].is_some());
        assert!(sockets.rests_until.is_some_and(|until| until > clock::instant()));
    }
}
