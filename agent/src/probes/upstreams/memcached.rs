//! `stats` of Memcached. Pure.

use wire::v1::Signal;

use super::dial::Failure;

/// The text protocol.
pub(super) const QUESTION: &[u8] = b"stats\r\nquit\r\n";
/// Longest answer that is read: some 80 lines.
pub(super) const BYTES_MAX: usize = 16 << 10;

/// What Memcached told; the connection that asks is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) connections: Option<u64>,
    pub(super) limit: Option<u64>,
    /// Times it had no room for a further connection.
    pub(super) n_full: Option<u64>,
    pub(super) n_evictions: Option<u64>,
}

/// True at the last line.
pub(super) fn is_whole(answer: &[u8]) -> bool {
    answer.ends_with(b"END\r\n")
}

/// What the answer means. `ERROR` of one that wants a login is a sign of life too.
pub(super) fn parse(answer: &[u8]) -> Result<Stats, Failure> {
    let text = String::from_utf8_lossy(answer);
    let starts = ["STAT ", "ERROR", "CLIENT_ERROR", "SERVER_ERROR"];
    if !starts.iter().any(|start| text.starts_with(start)) {
        return Err(Failure::new(Signal::Other, "it does not speak as Memcached does"));
    }
    let number = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix("STAT "));
        values.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    };
    Ok(Stats {
        connections: number("curr_connections").map(|n: u64| n.saturating_sub(1)),
        limit: number("max_connections"),
        n_full: number("listen_disabled_num"),
        n_evictions: number("evictions"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_evictions_are_read() {
        let answer = "STAT pid 7\r\nSTAT curr_connections 5\r\nSTAT max_connections 1024\r\n\
                      STAT listen_disabled_num 2\r\nSTAT evictions 9\r\nEND\r\n";
        let want = Stats {
            connections: Some(4),
            limit: Some(1024),
            n_full: Some(2),
            n_evictions: Some(9),
        };
        assert_eq!(parse(answer.as_bytes()), Ok(want));
        assert!(is_whole(answer.as_bytes()) && !is_whole(b"STAT pid 7\r\n"));
        assert_eq!(parse(b"ERROR\r\n"), Ok(Stats::default()));
        assert_eq!(parse(b"STAT evictions x\r\nSTAT evictions\r\n"), Ok(Stats::default()));
        for odd in [&b""[..], b"HTTP/1.1 400\r\n", b"\xff\x10"] {
            assert!(parse(odd).is_err(), "{odd:?}");
        }
    }
}
