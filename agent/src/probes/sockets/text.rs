//! The kernel's sockets as text, /proc/net/unix and /proc/net/tcp: for kernels, containers and
//! sandboxes without `sock_diag`. One line a socket; the columns are the same from Linux 2.6 to 6.x.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::{Name, Seen, State};

/// Read at once; the kernel hands out a page at a time anyway.
const CHUNK_BYTES: usize = 16 << 10;
/// Most text read of one file, some 250,000 sockets.
const TEXT_BYTES_MAX: usize = 24 << 20;
/// Most of it where only listeners matter, and somebody may wait for the answer.
const LISTENING_BYTES_MAX: usize = 2 << 20;
/// A longer line is none of these files.
const LINE_BYTES_MAX: usize = 512;

/// Every listening, connected or waiting Unix stream socket that has a name.
pub(super) fn unix(listening_only: bool, take: &mut dyn FnMut(Name<'_>, Seen)) -> io::Result<()> {
    let file = File::open("/proc/net/unix")?;
    fold_unix(file, listening_only, &mut |name, seen| take(Name::Unix(name), seen))
}

/// The kernel writes a name as it is: one with a line break in it looks like lines of its own. What
/// stands beside a line that is none is told as doubtful, after it was told as what it says. (A name
/// can be made up so well that nothing shows; netlink is never deceived.)
fn fold_unix(
    file: impl io::Read,
    listening_only: bool,
    take: &mut dyn FnMut(&[u8], Seen),
) -> io::Result<()> {
    let (mut last, mut is_doubtful) = (Vec::new(), false);
    lines(file, max_bytes(listening_only), &mut |line| {
        let Some((name, seen)) = parse_unix(line) else {
            if !line.starts_with(b"Num ") {
                is_doubtful = true;
                if !last.is_empty() {
                    take(&last, DOUBTFUL);
                }
            }
            last.clear();
            return true;
        };
        last.clear();
        last.extend_from_slice(name);
        if std::mem::take(&mut is_doubtful) {
            take(name, DOUBTFUL);
        } else if let Some(seen) = seen
            && !name.is_empty()
            && (!listening_only || matches!(seen.state, State::Listens { .. }))
        {
            take(name, seen);
        }
        true
    })
}

const DOUBTFUL: Seen = Seen { state: State::Doubtful, inode: 0, uid: None };

fn max_bytes(listening_only: bool) -> usize {
    if listening_only { LISTENING_BYTES_MAX } else { TEXT_BYTES_MAX }
}

/// Every listening or connected TCP socket.
pub(super) fn tcp(
    families: [bool; 2],
    ports: &RangeInclusive<u16>,
    listening_only: bool,
    take: &mut dyn FnMut(Name<'_>, Seen),
) -> io::Result<()> {
    for (path, is_asked) in ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().zip(families) {
        if !is_asked {
            continue;
        }
        match File::open(path) {
            Ok(file) => lines(file, max_bytes(listening_only), &mut |line| {
                // The kernel lists those that listen before all others.
                if listening_only && is_no_listener(line) {
                    return false;
                }
                if let Some(((ip, port), seen)) = parse_tcp(line)
                    && ports.contains(&port)
                {
                    take(Name::Tcp(ip, port), seen);
                }
                true
            })?,
            // A kernel without IPv6 has no second file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_no_listener(line: &[u8]) -> bool {
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    words.next().is_some_and(|word| word.ends_with(b":"))
        && words.nth(2).is_some_and(|state| state != b"0A")
}

/// Whole lines, with the memory of one chunk, until `take` has enough.
fn lines(
    mut file: impl io::Read,
    bytes_max: usize,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = [0; CHUNK_BYTES];
    let (mut held, mut n_bytes) = (0, 0);
    loop {
        let n = match file.read(&mut buffer[held..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if n == 0 {
            return Ok(());
        }
        n_bytes += n;
        if n_bytes > bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more sockets than are read"));
        }
        let filled = held + n;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &buffer[..filled]) {
            if !take(&buffer[start..end]) {
                return Ok(());
            }
            start = end + 1;
        }
        if filled - start > LINE_BYTES_MAX {
            start = filled;
        }
        buffer.copy_within(start..filled, 0);
        held = filled - start;
    }
}

/// `ptr: refs 00000000 flags type state inode path`: the name, empty where it has none, and what it
/// is; `None` = no such line. A connection in a backlog has no socket yet: it is "connecting" (02) and
/// has no inode; an accepted one is "connected" (03).
fn parse_unix(line: &[u8]) -> Option<(&[u8], Option<Seen>)> {
    const ACCEPTS: u32 = 0x1_0000;
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_ascii_start();
        let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        std::str::from_utf8(word).ok()
    };
    let is_hex = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_hexdigit());
    let is_sane = is_hex(word()?.strip_suffix(':')?) && is_hex(word()?) && is_hex(word()?);
    let flags = word()?;
    let (kind, state) = (word()?, word()?);
    if !is_sane || flags.len() != 8 || kind.len() != 4 || state.len() != 2 {
        return None;
    }
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let inode: u64 = word()?.parse().ok()?;
    let state = match state {
        _ if kind != "0001" => None,
        _ if flags & ACCEPTS != 0 => Some(State::Listens { queue: 0, limit: None }),
        "03" if inode != 0 => Some(State::Accepted),
        "02" if inode == 0 => Some(State::Waits),
        _ => None,
    };
    Some((rest, state.map(|state| Seen { state, inode, uid: None })))
}

/// `n: local remote state tx:rx timer retransmits uid timeout inode …`; of a listener `rx` is the
/// length of its queue.
fn parse_tcp(line: &[u8]) -> Option<((IpAddr, u16), Seen)> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    let address = hex_address(words.next()?)?;
    let state = words.nth(1)?;
    let (_, queue) = words.next()?.split_once(':')?;
    let uid = words.nth(2)?.parse().ok()?;
    let inode: u64 = words.nth(1)?.parse().ok()?;
    let state = match state {
        "0A" => State::Listens { queue: u32::from_str_radix(queue, 16).ok()?, limit: None },
        "01" | "08" if inode != 0 => State::Accepted,
        _ => return None,
    };
    Some((address, Seen { state, inode, uid: Some(uid) }))
}

/// `0100007F:2328`: an address in words of the machine's byte order, and a port.
pub(crate) fn hex_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if address.len() == 8 {
        return Some((Ipv4Addr::from(word(0)?).into(), port));
    }
    let mut bytes = [0; 16];
    for (ix, part) in bytes.chunks_exact_mut(4).enumerate() {
        part.copy_from_slice(&word(8 * ix)?);
    }
    Some((Ipv6Addr::from(bytes).to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_unix_sockets_of_old_and_new_kernels_are_read() {
        let check = |line: &str, want: Option<(&str, State)>| {
            let got = parse_unix(line.as_bytes()).filter(|(name, _)| !name.is_empty());
            let got =
                got.and_then(|(name, seen)| Some((std::str::from_utf8(name).ok()?, seen?.state)));
            assert_eq!(got, want, "{line}");
        };
        let listens = State::Listens { queue: 0, limit: None };
        // Linux 6.18.
        check(
            "00000000c9083e66: 00000002 00000000 00010000 0001 01 1154047 /run/php/a.sock",
            Some(("/run/php/a.sock", listens)),
        );
        check(
            "00000000003e5201: 00000003 00000000 00000000 0001 02     0 /run/php/a.sock",
            Some(("/run/php/a.sock", State::Waits)),
        );
        check(
            "000000009ce6ce6e: 00000003 00000000 00000000 0001 03 1155078 /run/php/a.sock",
            Some(("/run/php/a.sock", State::Accepted)),
        );
        // Linux 3.10: the address is told.
        check(
            "ffff88003c0d8000: 00000002 00000000 00010000 0001 01 14632 /var/run/php-fpm/www.sock",
            Some(("/var/run/php-fpm/www.sock", listens)),
        );
        check(
            "ffff88003c0da700: 00000003 00000000 00000000 0001 03 20117 /a file with blanks",
            Some(("/a file with blanks", State::Accepted)),
        );
        // The client's end has no path, a datagram socket is no pool.
        check("ffff88003c0da700: 00000003 00000000 00000000 0001 03 20117", None);
        check("ffff88003c0da700: 00000003 00000000 00000000 0002 01 20117 /run/log", None);
        check("Num       RefCount Protocol Flags    Type St Inode Path", None);
        check("", None);
        let line = b"00000000c9083e66: 00000002 00000000 00010000 0001 01 1154047 /run/a.sock";
        let inode = parse_unix(line).and_then(|(_, seen)| seen).map(|seen| seen.inode);
        assert_eq!(inode, Some(1_154_047));
    }

    #[test]
    fn a_name_with_a_line_break_does_not_make_up_a_listener() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        let line = |flags, name: &str| {
            format!("0000000000000000: 00000002 00000000 {flags} 0001 01 77 {name}\n")
        };
        let (listens, idle) = ("00010000", "00000000");
        let forged = line(idle, "/tmp/x").replace("/tmp/x", "/tmp/x\n\n");
        let check = |text: String, path: &str, want: &[&str]| {
            let mut got = Vec::new();
            let text = format!("{head}{text}");
            fold_unix(text.as_bytes(), true, &mut |name, seen| {
                if name == path.as_bytes() {
                    let is_doubtful = seen.state == State::Doubtful;
                    got.push(if is_doubtful { "doubtful" } else { "listens" });
                }
            })
            .unwrap();
            assert_eq!(got, want, "{path} in {text}");
        };
        let real = line(listens, "/run/a.sock");
        check(real.clone(), "/run/a.sock", &["listens"]);
        check(line(idle, "") + &real + &line(idle, "@x"), "/run/a.sock", &["listens"]);
        check(forged.clone() + &real, "/run/a.sock", &["doubtful"]);
        check(real.clone() + "broken\n", "/run/a.sock", &["listens", "doubtful"]);
        check(forged + &line(idle, "/b") + &real, "/run/a.sock", &["listens"]);
        let made_up = "x: 00000002 00000000 00010000 0001 01 5 /run/b.sock\n";
        check(real + made_up, "/run/b.sock", &[]);
    }

    #[test]
    fn addresses_of_the_kernel_are_read() {
        let v4 = |text: &str| hex_address(text).map(|(ip, port)| format!("{ip} {port}"));
        assert_eq!(v4("0100007F:2328").as_deref(), Some("127.0.0.1 9000"));
        assert_eq!(
            v4("00000000000000000000000001000000:0050").as_deref(),
            Some("::1 80"),
            "four words"
        );
        assert_eq!(v4("0000000000000000FFFF00000100007F:0050").as_deref(), Some("127.0.0.1 80"));
        for broken in ["", ":", "0100007F", "01:1", "zz00007F:1", "0100007F:", "é100007F:1"] {
            assert_eq!(v4(broken), None, "{broken}");
        }
    }

    #[test]
    fn of_a_long_list_only_those_that_listen_are_read() {
        let check = |line: &str, want| assert_eq!(is_no_listener(line.as_bytes()), want, "{line}");
        check("  sl  local_address rem_address   st tx_queue rx_queue tr", false);
        check("   0: 0100007F:81A1 00000000:0000 0A 00000000:00000002 00:00000000", false);
        check("   0: 0100007F:81A1 0100007F:DAD8 01 00000000:00000000 00:00000000", true);
        check("", false);
    }

    #[test]
    fn lines_of_tcp_sockets_are_read() {
        let check = |line: &str, want: Option<State>| {
            let got = parse_tcp(line.as_bytes());
            let got = got.map(|(address, seen)| (address, seen.state));
            let want = want.map(|state| (("127.0.0.1".parse().unwrap(), 33_185), state));
            assert_eq!(got, want, "{line}");
        };
        check(
            "   0: 0100007F:81A1 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 \
             1155089 3 00000000615cf3d9 100 0 0 10 0",
            Some(State::Listens { queue: 2, limit: None }),
        );
        check(
            "   2: 0100007F:81A1 0100007F:DAD8 01 00000000:00000000 00:00000000 00000000     0        0 \
             1155095 1 000000000968cf5f 20 0 0 10 -1",
            Some(State::Accepted),
        );
        check(
            "   3: 0100007F:81A1 0100007F:DAE8 01 00000000:00000000 00:00000000 00000000     0        0 \
             0 1 00000000bf94560d 20 0 0 10 -1",
            None, // waits: the listener counts it
        );
        check(
            "   6: 0100007F:81A1 0100007F:DACA 06 00000000:00000000 03:00001764 00000000     0        0 \
             0 3 000000009665b87f",
            None,
        );
        check("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt", None);
    }

    #[test]
    fn lines_longer_than_the_buffer_and_cut_reads_lose_nothing_else() {
        struct Drip<'a>(&'a [u8]);
        impl io::Read for Drip<'_> {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                let n = self.0.len().min(7).min(to.len());
                to[..n].copy_from_slice(&self.0[..n]);
                self.0 = &self.0[n..];
                Ok(n)
            }
        }
        let long = "x".repeat(3 * CHUNK_BYTES);
        let text = format!("first\n\nsecond line\n{long}\nlast\nno end");
        let mut got = Vec::new();
        lines(Drip(text.as_bytes()), TEXT_BYTES_MAX, &mut |line| {
            got.push(line.to_vec());
            true
        })
        .unwrap();
        assert_eq!(got[..3], [&b"first"[..], b"", b"second line"]);
        assert_eq!(got.last().map(Vec::as_slice), Some(&b"last"[..]));
        assert!(lines(Drip(text.as_bytes()), 40, &mut |_| true).is_err(), "too long to tell");
    }
}
