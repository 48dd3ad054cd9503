//! The evidence table: what each kind of evidence says about each cause, as data.
//!
//! Values are log odds in nats, added up (naive Bayes). A row lists causes; every cause that it
//! does not list gets its `rest`.

use wire::v1::Signal;

use super::server::Level;
use Class::{
    Crash, Ddos, DiskFull, Dns, Firewall, Misconfig, Network, Oom, Overload, ServiceDown, SiteCode,
    Steal, Timeout,
};

/// A cause that can be told from others.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// More requests than the pool or the server can take.
    Overload,
    /// The kernel killed processes for lack of memory.
    Oom,
    /// Processes crash.
    Crash,
    /// A service is stopped or failed.
    ServiceDown,
    /// The configuration points at nothing, or may not open it.
    Misconfig,
    /// A packet filter stands between gateway and backend.
    Firewall,
    /// A name does not resolve.
    Dns,
    /// The backend answers too late.
    Timeout,
    /// The site's own code.
    SiteCode,
    /// A flood of requests.
    Ddos,
    /// The hypervisor takes the processors away.
    Steal,
    /// A file system is full.
    DiskFull,
    /// The network between gateway and backend.
    Network,
}

impl Class {
    /// Every class, in the order of the contract.
    pub const ALL: [Self; 13] = [
        Overload,
        Oom,
        Crash,
        ServiceDown,
        Misconfig,
        Firewall,
        Dns,
        Timeout,
        SiteCode,
        Ddos,
        Steal,
        DiskFull,
        Network,
    ];

    /// Name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Overload => "overload",
            Oom => "oom",
            Crash => "crash",
            ServiceDown => "service_down",
            Misconfig => "misconfig",
            Firewall => "firewall",
            Dns => "dns",
            Timeout => "timeout",
            SiteCode => "site_code",
            Ddos => "ddos",
            Steal => "steal",
            DiskFull => "disk_full",
            Network => "network",
        }
    }
}

/// What one kind of evidence says.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    listed: &'static [(Class, f64)],
    rest: f64,
}

impl Row {
    /// Nats for a cause.
    #[must_use]
    pub fn nats(&self, class: Class) -> f64 {
        self.listed.iter().find(|(listed, _)| *listed == class).map_or(self.rest, |(_, n)| *n)
    }
}

const fn row(listed: &'static [(Class, f64)], rest: f64) -> Row {
    Row { listed, rest }
}

/// What error lines of the web server say; `None` when a signal says nothing about the cause.
#[must_use]
pub fn line(signal: Signal) -> Option<Row> {
    Some(match signal {
        Signal::ConnectRefused => row(
            &[(ServiceDown, 1.6), (Oom, 0.9), (Misconfig, 0.3), (Crash, 0.2), (Firewall, 0.0)],
            -1.2,
        ),
        Signal::NoSuchSocket => row(&[(ServiceDown, 1.6), (Misconfig, 1.6), (Oom, 0.2)], -2.0),
        Signal::Permission => row(&[(Misconfig, 3.5)], -2.0),
        Signal::BacklogFull => row(&[(Overload, 1.8), (Ddos, 1.6), (Steal, 0.4)], -2.0),
        Signal::PrematureClose => {
            row(&[(Crash, 1.2), (SiteCode, 1.2), (Oom, 0.9), (DiskFull, 0.3)], -1.0)
        }
        Signal::Reset => row(&[(Crash, 1.3), (Oom, 1.0), (SiteCode, 0.6), (Network, 0.0)], -1.5),
        Signal::TimeoutRead => row(
            &[
                (Timeout, 1.5),
                (Steal, 1.2),
                (Overload, 0.6),
                (Network, 0.6),
                (Ddos, 0.5),
                (SiteCode, 0.0),
            ],
            -1.5,
        ),
        Signal::ConnectTimeout => row(
            &[(Firewall, 1.7), (Network, 1.6), (Ddos, 0.8), (Steal, 0.2), (Overload, 0.0)],
            -2.0,
        ),
        Signal::Unreachable => row(&[(Firewall, 2.2), (Network, 2.0)], -2.5),
        Signal::Dns => row(&[(Dns, 3.5)], -2.5),
        Signal::NoLiveUpstreams => row(&[(Dns, 1.2), (ServiceDown, 0.6), (Ddos, 0.5)], -1.0),
        Signal::DiskFull => row(&[(DiskFull, 4.5)], -2.0),
        Signal::TooBigHeader => row(&[(Misconfig, 2.0), (SiteCode, 1.5)], -2.0),
        Signal::InvalidHeader => row(&[(SiteCode, 1.6), (Misconfig, 1.2)], -2.0),
        Signal::Tls => row(&[(Misconfig, 2.0), (Network, 0.3)], -2.0),
        Signal::WorkerConnections => row(&[(Ddos, 1.8), (Overload, 1.5), (Misconfig, 0.8)], -2.0),
        Signal::ServerDown => row(&[(ServiceDown, 1.6), (Network, 0.4)], -1.0),
        Signal::TooManyConnections => row(&[(Overload, 1.0), (Timeout, 1.0), (Ddos, 0.5)], -0.5),
        Signal::MemoryLimit => row(&[(SiteCode, 2.0), (Misconfig, 0.5)], -1.0),
        _ => return None,
    })
}

/// Failures without an error line although the log was read: the application answered itself.
pub const SILENT: Row = row(&[(SiteCode, 1.5), (ServiceDown, 0.0)], -1.2);
/// A worker exited on signal 9.
pub const WORKER_KILLED: Row = row(&[(Oom, 1.5), (Crash, 0.5)], -0.5);
/// A worker was ended because its request took too long.
pub const WORKER_TIMEOUT: Row = row(&[(Timeout, 2.0), (Overload, 0.6)], -0.5);
/// A process broke memory rules.
pub const SEGFAULT: Row = row(&[(Crash, 4.0), (SiteCode, 0.3)], -0.5);
/// A unit failed, stopped or restarts in a loop.
pub const UNIT_DOWN: Row = row(&[(ServiceDown, 3.5), (Oom, 0.8), (Misconfig, 0.3)], -0.8);
/// A package changed less than five minutes before.
pub const PACKAGE: Row = row(&[(ServiceDown, 1.2), (Misconfig, 0.3)], 0.0);
/// A configuration file changed.
pub const CONFIG: Row = row(&[(Misconfig, 2.5)], 0.0);
/// The packet filter changed.
pub const FIREWALL: Row = row(&[(Firewall, 3.0)], 0.0);
/// The site's application, a plugin or a theme changed.
pub const PLUGIN: Row = row(&[(SiteCode, 2.8)], 0.0);

/// What a resource level says; not used for a single site.
#[must_use]
pub fn level(level: Level) -> Row {
    match level {
        Level::OomKill => row(&[(Oom, 4.0)], -0.5),
        Level::MemoryPressure => row(&[(Oom, 1.8), (Overload, 0.2)], -0.3),
        Level::MemoryLow => row(&[(Oom, 1.0)], -0.1),
        Level::CpuBusy => row(&[(Overload, 1.6), (Ddos, 1.2)], -0.3),
        Level::CpuPressure => row(&[(Overload, 1.2), (Steal, 1.0), (Ddos, 0.6)], -0.3),
        Level::Steal => row(&[(Steal, 4.2)], -0.6),
        Level::IoPressure => row(&[(Timeout, 1.0), (DiskFull, 0.3)], -0.1),
        Level::MaxChildren => row(&[(Overload, 1.5), (Ddos, 0.8), (Timeout, 0.5)], -0.2),
        Level::ListenOverflow => row(&[(Ddos, 2.5), (Overload, 0.8)], -0.4),
        Level::Conntrack => row(&[(Ddos, 2.0)], -0.2),
        Level::Retransmit => row(&[(Network, 3.0)], -0.5),
        Level::DiskFull => row(&[(DiskFull, 4.5)], -0.6),
        Level::Surge => row(&[(Ddos, 2.2), (Overload, 0.6)], -0.2),
    }
}

/// Levels that a cause would have raised: sampled and all normal, they speak against it.
pub const NORMAL: [(Class, &[Level], f64); 6] = [
    (Oom, &[Level::OomKill], -2.0),
    (Steal, &[Level::Steal], -2.5),
    (DiskFull, &[Level::DiskFull], -2.5),
    (Ddos, &[Level::ListenOverflow, Level::CpuBusy], -2.0),
    (Overload, &[Level::CpuBusy, Level::CpuPressure], -1.5),
    (Network, &[Level::Retransmit], -1.0),
];
/// What all of them normal say for every other cause.
pub const NORMAL_REST: f64 = 0.2;

/// Levels in the order in which evidence is listed, with the words for them.
pub const LEVELS: [(Level, &str); 13] = [
    (Level::OomKill, "the kernel killed processes for lack of memory"),
    (Level::MemoryPressure, "processes stall for memory"),
    (Level::MemoryLow, "less than 8 % of the memory is available"),
    (Level::CpuBusy, "the processors are busy"),
    (Level::CpuPressure, "processes wait for a processor"),
    (Level::Steal, "the hypervisor takes processor time away"),
    (Level::IoPressure, "processes wait for disks"),
    (Level::MaxChildren, "PHP-FPM ran out of children"),
    (Level::ListenOverflow, "full listen queues dropped connections"),
    (Level::Conntrack, "the connection table fills up"),
    (Level::Retransmit, "TCP segments are sent again"),
    (Level::DiskFull, "a file system is full"),
    (Level::Surge, "requests come faster than is normal at this hour"),
];

/// Log prior of a cause for a scope named `site`, `pool`, `server` or `group`.
#[must_use]
pub fn prior(scope: &str, class: Class) -> f64 {
    let listed: &[(Class, f64)] = match scope {
        "site" => &[
            (SiteCode, 1.0),
            (Misconfig, 0.3),
            (Timeout, 0.3),
            (Crash, 0.2),
            (Dns, -1.0),
            (Overload, -2.0),
            (Firewall, -2.0),
            (Ddos, -2.0),
            (Oom, -3.0),
            (DiskFull, -3.0),
            (Network, -3.0),
            (Steal, -4.0),
        ],
        "pool" => &[
            (Overload, 0.8),
            (Crash, 0.5),
            (ServiceDown, 0.4),
            (Timeout, 0.2),
            (Misconfig, -0.5),
            (SiteCode, -1.5),
            (Oom, -2.0),
            (DiskFull, -2.0),
            (Dns, -2.0),
            (Ddos, -2.0),
            (Steal, -3.0),
            (Network, -3.0),
            (Firewall, -3.0),
        ],
        "server" => &[
            (ServiceDown, 0.4),
            (Overload, 0.3),
            (Oom, 0.3),
            (DiskFull, 0.3),
            (Network, -0.7),
            (Crash, -1.0),
            (Timeout, -1.0),
            (SiteCode, -5.0),
        ],
        _ => &[
            (Network, 0.7),
            (Dns, 0.6),
            (Steal, 0.3),
            (ServiceDown, 0.3),
            (Firewall, 0.2),
            (Timeout, -1.0),
            (Ddos, -1.0),
            (Overload, -2.0),
            (Crash, -2.0),
            (Oom, -3.0),
            (DiskFull, -3.0),
            (SiteCode, -6.0),
        ],
    };
    listed.iter().find(|(listed, _)| *listed == class).map_or(0.0, |(_, nats)| *nats)
}
