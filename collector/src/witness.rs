//! Whether the collector's own network works: asked when so many agents fall silent at once that it
//! may be the collector that is cut off, and then each five seconds until it works again.
//!
//! With `[detect] witnesses` the answer is theirs: none answers, the uplink is lost. Without, it is
//! the best guess of this machine alone. An agent on another machine that still talks shows that it
//! works. A default route that was there at the start and is gone, or resolvers of this machine that
//! answered at the start and do not now, show that it is lost. Where nothing of that can be told the
//! fleet is believed and the incident says so: a page too many when the uplink dies beyond the
//! resolvers, rather than none when a provider does. Only witnesses beyond the uplink close that gap.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::ingest::{Heard, Live};
use crate::model::{CollectorEvent, Record};
use crate::selfstats::SelfStats;

/// How long an address may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Addresses asked, all at once; more witnesses than that are refused with the configuration.
pub const WITNESSES_MAX: usize = 16;
/// How often it is asked again while the uplink is lost or in doubt.
const AGAIN: Duration = Duration::from_secs(5);
/// How long another agent is listened for, and how often it is looked.
const LISTEN: Duration = Duration::from_millis(2500);
const LOOK: Duration = Duration::from_millis(100);
/// Where the resolvers of this machine are named: behind a local stub first.
const RESOLVERS: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
const DNS_PORT: u16 = 53;

/// What the signs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uplink {
    Works,
    Lost,
    Unknown,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Signs {
    /// Witnesses are configured.
    configured: bool,
    /// Addresses that ought to answer, and those that do.
    n_asked: usize,
    n_answered: usize,
    /// An agent on another machine talks.
    agents: bool,
    /// There was a default route at the start, and there is one now.
    routed: (bool, bool),
}

impl Signs {
    fn verdict(self) -> Uplink {
        if self.configured {
            return if self.n_answered > 0 { Uplink::Works } else { Uplink::Lost };
        }
        match self {
            Self { agents: true, .. } => Uplink::Works,
            Self { routed: (true, false), .. } => Uplink::Lost,
            Self { n_asked: 0, .. } => Uplink::Unknown,
            Self { n_answered: 0, .. } => Uplink::Lost,
            _ => Uplink::Works,
        }
    }
}

/// The task that asks.
pub struct Witness {
    addresses: Vec<String>,
    configured: bool,
    routed: bool,
    live: Live,
    heard: mpsc::Sender<Heard>,
    stats: Arc<SelfStats>,
}

impl Witness {
    /// One that asks `configured` witnesses, or judges by this machine when there are none.
    pub fn new(
        configured: &[String],
        live: Live,
        heard: mpsc::Sender<Heard>,
        stats: Arc<SelfStats>,
    ) -> Self {
        let addresses = configured.iter().take(WITNESSES_MAX).cloned().collect();
        Self {
            addresses,
            configured: !configured.is_empty(),
            routed: has_default_route(),
            live,
            heard,
            stats,
        }
    }

    /// Asks whenever `doubts` says so, until `stop` fires, and tells the detective what it finds.
    pub async fn run(mut self, mut doubts: watch::Receiver<bool>, stop: CancellationToken) {
        if !self.configured {
            // Who does not answer now says nothing by not answering later.
            self.addresses = answering(&resolvers()).await;
        }
        loop {
            let doubted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: only looks at the newest value.
                doubted = doubts.wait_for(|doubted| *doubted) => doubted.is_ok(),
            };
            if !doubted {
                return;
            }
            // Cancel-safe: what is half asked is asked again.
            let lost = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                lost = self.is_lost() => lost,
            };
            if lost && !self.outlast(&stop).await {
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: only waits.
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Tells that the uplink is lost, and when it works again; false when the collector stops.
    async fn outlast(&self, stop: &CancellationToken) -> bool {
        self.stats.uplink_lost.set(true);
        tracing::error!(
            witnesses = ?self.addresses,
            "the collector's own uplink is lost: agents that fall silent are not told; mend the network of this machine"
        );
        self.tell(CollectorEvent::UplinkLost).await;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                // Cancel-safe: only waits.
                () = sleep(AGAIN) => {}
            }
            if !self.is_lost().await {
                break;
            }
        }
        self.stats.uplink_lost.set(false);
        tracing::info!("the collector's own uplink works again");
        self.tell(CollectorEvent::UplinkBack).await;
        true
    }

    async fn tell(&self, event: CollectorEvent) {
        let at = clock::now();
        if self.heard.send((at, Record::Collector { at, event })).await.is_err() {
            tracing::debug!("nobody listens to the witness any more");
        }
    }

    async fn is_lost(&self) -> bool {
        let (since, begun) = (clock::now(), clock::instant());
        let answered = answering(&self.addresses).await;
        let mut signs = Signs {
            configured: self.configured,
            n_asked: self.addresses.len(),
            n_answered: answered.len(),
            routed: (self.routed, has_default_route()),
            agents: false,
        };
        if !self.configured {
            // Not by the clock that `since` is of: that may be set back.
            while !self.live.speaks_from_elsewhere(since) && begun.elapsed() < LISTEN {
                sleep(LOOK).await;
            }
            signs.agents = self.live.speaks_from_elsewhere(since);
        }
        let verdict = signs.verdict();
        if verdict == Uplink::Unknown {
            tracing::warn!(
                "half of all agents fell silent and nothing tells whether it is this collector: set [detect] witnesses"
            );
        }
        verdict == Uplink::Lost
    }
}

/// Those of these addresses that answer: a connection, or a refusal, which is an answer as well.
async fn answering(addresses: &[String]) -> Vec<String> {
    let mut asked = JoinSet::new();
    for address in addresses.iter().take(WITNESSES_MAX).cloned() {
        asked.spawn(async move {
            let answer = timeout(ANSWER_TIME_MAX, TcpStream::connect(&address)).await;
            let refused =
                |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
            match answer {
                Ok(Ok(_)) => Some(address),
                Ok(Err(error)) if refused(&error) => Some(address),
                Ok(Err(_)) | Err(_) => None,
            }
        });
    }
    let mut answered: Vec<String> = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answered.extend(answer.ok().flatten());
    }
    answered.sort();
    answered
}

/// The resolvers this machine asks, other machines only.
fn resolvers() -> Vec<String> {
    let read = |path: &&str| std::fs::read_to_string(path).ok().map(|text| resolvers_in(&text));
    RESOLVERS.iter().filter_map(read).find(|found| !found.is_empty()).unwrap_or_default()
}

fn resolvers_in(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let parsed = named.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    let others = parsed.filter(|address| !address.is_loopback());
    others.map(|address| std::net::SocketAddr::from((address, DNS_PORT)).to_string()).collect()
}

/// Whether packets for the rest of the world have a way out.
fn has_default_route() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    has_route_v4(&read("/proc/net/route")) || has_route_v6(&read("/proc/net/ipv6_route"))
}

/// Lines of `/proc/net/route`: interface, destination, gateway, flags (1: up, hexadecimal), ..., mask.
fn has_route_v4(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let up = words.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        words.get(1) == Some(&"00000000")
            && words.get(7) == Some(&"00000000")
            && up.is_some_and(|flags| flags & 1 == 1)
    })
}

/// Lines of `/proc/net/ipv6_route`: destination, its length, ..., flags, interface; the kernel's own
/// entry that rejects everything is on `lo`.
fn has_route_v6(table: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let any = words.first().is_some_and(|to| to.bytes().all(|b| b == b'0'));
        any && words.get(1) == Some(&"00") && words.last().is_some_and(|name| *name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn witnesses_decide_where_there_are_some_and_the_machines_own_signs_where_not() {
        let signs = |configured, n_asked, n_answered, agents, routed| Signs {
            configured,
            n_asked,
            n_answered,
            agents,
            routed,
        };
        for (what, signs, verdict) in [
            ("one witness answers", signs(true, 2, 1, false, (true, true)), Uplink::Works),
            ("none does, neighbours talk", signs(true, 2, 0, true, (true, true)), Uplink::Lost),
            ("agents elsewhere talk", signs(false, 1, 0, true, (true, false)), Uplink::Works),
            ("the route is gone", signs(false, 1, 1, false, (true, false)), Uplink::Lost),
            ("there never was one", signs(false, 0, 0, false, (false, false)), Uplink::Unknown),
            ("resolvers fell silent", signs(false, 2, 0, false, (true, true)), Uplink::Lost),
            ("a resolver answers", signs(false, 2, 1, false, (true, true)), Uplink::Works),
            ("nobody to ask", signs(false, 0, 0, false, (true, true)), Uplink::Unknown),
        ] {
            assert_eq!(signs.verdict(), verdict, "{what}");
        }
    }

    #[test]
    fn resolvers_and_routes_are_read_as_the_system_writes_them() {
        let text = "# made\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n nameserver 2001:db8::53\nsearch x\nnameserver nonsense\n";
        assert_eq!(resolvers_in(text), ["192.0.2.53:53", "[2001:db8::53]:53"]);
        let head =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let default = format!("{head}eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
        let net = format!("{head}eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n");
        assert!(has_route_v4(&default) && !has_route_v4(&net) && !has_route_v4(""));
        let zero = "0".repeat(32);
        let v6 = |length: &str, name: &str| {
            format!("{zero} {length} {zero} 00 {zero} 00000400 00000001 00000000 00000003 {name}\n")
        };
        assert!(has_route_v6(&v6("00", "eth0")));
        assert!(!has_route_v6(&v6("00", "lo")) && !has_route_v6(&v6("80", "eth0")));
    }

    /// Doubts, and collects what is told until `n` events came.
    async fn told(
        witness: Witness,
        mut heard: mpsc::Receiver<Heard>,
        n: usize,
    ) -> Vec<CollectorEvent> {
        let (doubt, doubts) = watch::channel(false);
        let stop = CancellationToken::new();
        let task = tokio::spawn(witness.run(doubts, stop.clone()));
        doubt.send_replace(true);
        let mut events = Vec::new();
        while events.len() < n {
            match timeout(Duration::from_secs(20), heard.recv()).await.unwrap() {
                Some((_, Record::Collector { event, .. })) => events.push(event),
                other => panic!("{other:?}"),
            }
        }
        stop.cancel();
        task.await.unwrap();
        events
    }

    #[tokio::test]
    async fn an_uplink_without_a_witness_is_lost_until_one_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // A name that resolves nowhere (RFC 6761) never answers.
        let names = vec!["witness.invalid:1".to_owned()];
        let (tell, heard) = mpsc::channel(8);
        let stats = Arc::new(SelfStats::default());
        let witness = Witness::new(&names, Live::default(), tell, Arc::clone(&stats));
        assert_eq!(told(witness, heard, 1).await, [CollectorEvent::UplinkLost]);
        assert!(stats.uplink_lost.get());

        assert_eq!(answering(&[format!("127.0.0.1:{port}")]).await.len(), 1);
        drop(listener);
        assert_eq!(answering(&[format!("127.0.0.1:{port}")]).await.len(), 1, "a refusal");
        assert_eq!(answering(&names).await.len(), 0);
    }
}
