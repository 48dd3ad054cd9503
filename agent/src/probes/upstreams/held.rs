//! How many connections a server of this machine holds, counted in the kernel's lists: that takes no
//! login, and works when the server answers nobody any more.
//!
//! The lists are read line by line and never held; a list that is too long tells nothing.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};

/// Bytes of one list that are read: some 14,000 connections. Longer ones cost more than they tell.
const BYTES_MAX: u64 = 2 << 20;
/// `TCP_ESTABLISHED`, and `SS_CONNECTED` of a Unix socket that was accepted.
const ESTABLISHED: &str = "01";
const CONNECTED: &str = "03";

/// Connections held at a Unix socket's path.
pub(super) fn unix(path: &str) -> Option<u64> {
    count_unix(open("/proc/net/unix")?, path)
}

/// Connections held at a TCP port of this machine, whoever made them.
pub(super) fn tcp(port: u16) -> Option<u64> {
    let v4 = count_tcp(open("/proc/net/tcp")?, port)?;
    // A kernel without IPv6 has no second list.
    let v6 = open("/proc/net/tcp6").map_or(Some(0), |list| count_tcp(list, port))?;
    Some(v4 + v6)
}

fn open(path: &str) -> Option<impl BufRead> {
    Some(BufReader::with_capacity(16 << 10, File::open(path).ok()?.take(BYTES_MAX)))
}

/// `0: 00000000 0: 2 0: 00000003 0: 00000000 0: 00010000 0: 0001 0: 01 0: 17 0: /run/a.sock`: the
/// socket that a server accepted has the path that it listens at.
fn count_unix(list: impl BufRead, path: &str) -> Option<u64> {
    count(list, |line| {
        let mut words = line.split_ascii_whitespace();
        words.nth(5) == Some(CONNECTED) && words.nth(1) == Some(path)
    })
}

fn count_tcp(list: impl BufRead, port: u16) -> Option<u64> {
    let end = format!(":{port:04X}");
    count(list, |line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_ours = words.next().is_some_and(|local| local.ends_with(&end));
        is_ours && words.nth(1) == Some(ESTABLISHED)
    })
}

fn count(mut list: impl BufRead, is_one: impl Fn(&str) -> bool) -> Option<u64> {
    let (mut n, mut n_bytes, mut line) = (0, 0, Vec::new());
    loop {
        line.clear();
        match list.read_until(b'\n', &mut line).ok()? {
            0 if n_bytes >= BYTES_MAX => return None,
            0 => return Some(n),
            n_read => n_bytes += n_read as u64,
        }
        n += u64::from(std::str::from_utf8(&line).is_ok_and(&is_one));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    const UNIX: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/mysqld/mysqld.sock
0000000000000000: 00000003 00000000 00000000 0001 03 18 /run/mysqld/mysqld.sock
0000000000000000: 00000003 00000000 00000000 0001 03 19 /run/mysqld/mysqld.sock
0000000000000000: 00000002 00000000 00000000 0001 02 0 /run/mysqld/mysqld.sock
0000000000000000: 00000003 00000000 00000000 0001 03 20 /run/mysqld/mysqld.sock2
0000000000000000: 00000003 00000000 00000000 0001 03 21
";
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000\n\
   1: 0100007F:0CEA 0100007F:B1A2 01 00000000:00000000\n\
   2: 0100007F:B1A2 0100007F:0CEA 01 00000000:00000000\n\
   3: 0100007F:0CEA 0100007F:B1A3 06 00000000:00000000\n";

    #[test]
    fn accepted_connections_are_counted_and_no_others() {
        assert_eq!(count_unix(UNIX.as_bytes(), "/run/mysqld/mysqld.sock"), Some(2));
        assert_eq!(count_tcp(TCP.as_bytes(), 3306), Some(1));
        for odd in ["", "\n\n", "é\0", "a b c d e 03 f"] {
            assert_eq!(count_unix(odd.as_bytes(), "/run/a"), Some(0), "{odd:?}");
            assert_eq!(count_tcp(odd.as_bytes(), 1), Some(0), "{odd:?}");
        }
        let long = "x\n".repeat(BYTES_MAX as usize / 2);
        assert_eq!(count_tcp(long.as_bytes(), 1), None, "too long to tell");
    }

    #[test]
    fn connections_of_this_machine_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let text = path.display().to_string();
        assert_eq!(unix(&text), Some(0));
        let _client = UnixStream::connect(&path).unwrap();
        let _server = listener.accept().unwrap();
        assert_eq!(unix(&text), Some(1));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(tcp(address.port()), Some(1));
    }
}
