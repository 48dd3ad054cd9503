//! What Redis tells of its clients, where it asks for no password. Pure.

use wire::v1::Signal;

use super::dial::Failure;

/// Inline commands, each one line of an answer: `PONG`, then a text of stated length. `QUIT` ends it.
pub(super) const QUESTION: &[u8] = b"PING\r\nINFO clients\r\nQUIT\r\n";
/// Longest answer that is read.
pub(super) const BYTES_MAX: usize = 8 << 10;

/// What Redis told of its clients; the one that asks is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Clients {
    pub(super) connected: Option<u64>,
    pub(super) blocked: Option<u64>,
    /// Since Redis 7.
    pub(super) limit: Option<u64>,
}

/// Nothing: it ends the connection itself.
pub(super) fn is_whole(_answer: &[u8]) -> bool {
    false
}

/// What the answer means. `NOAUTH` is a sign of life too.
pub(super) fn parse(answer: &[u8]) -> Result<Clients, Failure> {
    let text = String::from_utf8_lossy(answer);
    let first = text.lines().next().unwrap_or_default();
    let error = first.strip_prefix('-');
    if error.is_some_and(|error| error.contains("max number of clients")) {
        let words = "max number of clients reached";
        return Err(Failure::new(Signal::TooManyConnections, words));
    }
    // Its own text is not quoted: whoever listens there could write anything.
    for (start, words) in [
        ("LOADING", "it is loading its data set"),
        ("MASTERDOWN", "its link to the master is down"),
    ] {
        if error.is_some_and(|error| error.starts_with(start)) {
            return Err(Failure::new(Signal::Other, words));
        }
    }
    if !first.starts_with(['+', '-']) {
        return Err(Failure::new(Signal::Other, "it does not speak as Redis does"));
    }
    let number = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line?.trim().parse::<u64>().ok()
    };
    Ok(Clients {
        connected: number("connected_clients").map(|n| n.saturating_sub(1)),
        blocked: number("blocked_clients"),
        limit: number("maxclients"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read_from_old_and_new_versions() {
        let new = "+PONG\r\n$99\r\n# Clients\r\nconnected_clients:3\r\ncluster_connections:0\r\n\
                   maxclients:10000\r\nblocked_clients:1\r\n\r\n+OK\r\n";
        let want = Clients { connected: Some(2), blocked: Some(1), limit: Some(10_000) };
        assert_eq!(parse(new.as_bytes()), Ok(want));
        let old = "+PONG\r\n$99\r\n# Clients\r\nconnected_clients:1\r\nblocked_clients:0\r\n";
        let want = Clients { connected: Some(0), blocked: Some(0), limit: None };
        assert_eq!(parse(old.as_bytes()), Ok(want));
        let locked =
            "-NOAUTH Authentication required.\r\n-NOAUTH Authentication required.\r\n+OK\r\n";
        assert_eq!(parse(locked.as_bytes()), Ok(Clients::default()));
    }

    #[test]
    fn a_redis_without_room_says_so() {
        let full = parse(b"-ERR max number of clients reached\r\n").unwrap_err();
        assert_eq!(full.signal, Some(Signal::TooManyConnections));
        let forged = parse(b"-ERR max number of clients reached by bob\r\n").unwrap_err();
        assert_eq!(forged.words, "max number of clients reached");
        let loading = parse(b"-LOADING Redis is loading the dataset in memory\r\n").unwrap_err();
        assert_eq!(loading.signal, Some(Signal::Other));
        for odd in [&b""[..], b"HTTP/1.1 400\r\n", b"\xff\xfe", b"ERROR\r\n"] {
            assert_eq!(parse(odd).unwrap_err().signal, Some(Signal::Other), "{odd:?}");
        }
        assert_eq!(parse(b"+PONG\r\nconnected_clients:-5\r\n"), Ok(Clients::default()));
    }
}
