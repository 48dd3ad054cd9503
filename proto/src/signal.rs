//! The vocabulary both halves share: signals of error lines and derived counters of requests.

use crate::v1::Signal;

/// Derived counters that `SiteSecond.status` may carry beside HTTP statuses.
pub mod counter {
    /// A 503 that the agent judged a gateway error; it is also counted under 503.
    pub const GATEWAY_503: u32 = 1000;
    /// A request that met a failed upstream and was answered well by another one.
    pub const RETRIED: u32 = 1001;
}

const NAMES: [(Signal, &str); 25] = [
    (Signal::ConnectRefused, "connect_refused"),
    (Signal::ConnectTimeout, "connect_timeout"),
    (Signal::Unreachable, "unreachable"),
    (Signal::Reset, "reset"),
    (Signal::PrematureClose, "premature_close"),
    (Signal::TimeoutRead, "timeout_read"),
    (Signal::NoLiveUpstreams, "no_live_upstreams"),
    (Signal::TooBigHeader, "too_big_header"),
    (Signal::InvalidHeader, "invalid_header"),
    (Signal::Permission, "permission"),
    (Signal::NoSuchSocket, "no_such_socket"),
    (Signal::Dns, "dns"),
    (Signal::Tls, "tls"),
    (Signal::MaxChildren, "max_children"),
    (Signal::BacklogFull, "backlog_full"),
    (Signal::WorkerSignal, "worker_signal"),
    (Signal::Oom, "oom"),
    (Signal::Segfault, "segfault"),
    (Signal::MemoryLimit, "memory_limit"),
    (Signal::DiskFull, "disk_full"),
    (Signal::ConntrackFull, "conntrack_full"),
    (Signal::WorkerConnections, "worker_connections"),
    (Signal::ServerDown, "server_down"),
    (Signal::TooManyConnections, "too_many_connections"),
    (Signal::Other, "other"),
];

impl Signal {
    /// The name the contract uses in JSON; `None` for `SIGNAL_UNSPECIFIED`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(signal, _)| *signal == self).map(|(_, name)| *name)
    }

    /// The signal with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(signal, _)| *signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_wire_has_one_name() {
        for number in 1..=25 {
            let signal = Signal::try_from(number).expect("numbers 1 to 25 are taken");
            let name = signal.name().expect("every signal has a name");
            assert_eq!(Signal::from_name(name), Some(signal));
        }
        assert!(Signal::try_from(26).is_err(), "a new signal needs a name here");
        assert_eq!(Signal::Unspecified.name(), None);
    }
}
