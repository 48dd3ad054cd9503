//! The kernel's sockets as text, /proc/net/unix and /proc/net/tcp: for kernels, containers and
//! sandboxes without `sock_diag`. One line a socket; the columns are the same from Linux 2.6 to 6.x.

use std::fs::File;
use std::io;
use std::net::IpAddr;

use super::sockets::{Seen, State};
use crate::probes::listeners::hex_address;

/// Read at once; the kernel hands out a page at a time anyway.
const CHUNK_BYTES: usize = 16 << 10;
/// Most text read of one file, some 250,000 sockets.
const TEXT_BYTES_MAX: usize = 24 << 20;
/// A longer line is none of these files.
const LINE_BYTES_MAX: usize = 512;

/// Every listening, connected or waiting Unix stream socket that has a path.
pub(super) fn unix(take: &mut dyn FnMut(&[u8], Seen)) -> io::Result<()> {
    lines(File::open("/proc/net/unix")?, &mut |line| {
        if let Some((path, seen)) = parse_unix(line) {
            take(path, seen);
        }
    })
}

/// Every listening or connected TCP socket.
pub(super) fn tcp(take: &mut dyn FnMut((IpAddr, u16), Seen)) -> io::Result<()> {
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match File::open(path) {
            Ok(file) => lines(file, &mut |line| {
                if let Some((address, seen)) = parse_tcp(line) {
                    take(address, seen);
                }
            })?,
            // A kernel without IPv6 has no second file.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whole lines, with the memory of one chunk.
fn lines(mut file: impl io::Read, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
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
        if n_bytes > TEXT_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more sockets than are read"));
        }
        let filled = held + n;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &buffer[..filled]) {
            take(&buffer[start..end]);
            start = end + 1;
        }
        if filled - start > LINE_BYTES_MAX {
            start = filled;
        }
        buffer.copy_within(start..filled, 0);
        held = filled - start;
    }
}

/// `ptr: refs 00000000 flags type state inode path`. A connection in a backlog has no socket yet: it
/// is "connecting" (02) and has no inode; an accepted one is "connected" (03).
fn parse_unix(line: &[u8]) -> Option<(&[u8], Seen)> {
    const ACCEPTS: u32 = 0x1_0000;
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_ascii_start();
        let end = memchr::memchr(b' ', rest)?;
        let (word, after) = rest.split_at(end);
        rest = &after[1..];
        std::str::from_utf8(word).ok()
    };
    let (_, _, _) = (word()?, word()?, word()?);
    let flags = u32::from_str_radix(word()?, 16).ok()?;
    let is_stream = word()? == "0001";
    let state = word()?;
    let inode: u64 = word()?.parse().ok()?;
    if !is_stream || rest.is_empty() {
        return None;
    }
    let state = match state {
        _ if flags & ACCEPTS != 0 => State::Listens { queue: 0, limit: None },
        "03" if inode != 0 => State::Accepted,
        "02" if inode == 0 => State::Waits,
        _ => return None,
    };
    Some((rest, Seen(state)))
}

/// `n: local remote state tx:rx timer retransmits uid timeout inode …`; of a listener `rx` is the
/// length of its queue.
fn parse_tcp(line: &[u8]) -> Option<((IpAddr, u16), Seen)> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    let address = hex_address(words.next()?)?;
    let state = words.nth(1)?;
    let (_, queue) = words.next()?.split_once(':')?;
    let inode: u64 = words.nth(4)?.parse().ok()?;
    let state = match state {
        "0A" => State::Listens { queue: u32::from_str_radix(queue, 16).ok()?, limit: None },
        "01" | "08" if inode != 0 => State::Accepted,
        _ => return None,
    };
    Some((address, Seen(state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one line says, in a word.
    fn unix_word(line: &str) -> Option<(String, Seen)> {
        parse_unix(line.as_bytes()).map(|(path, seen)| (String::from_utf8_lossy(path).into(), seen))
    }

    #[test]
    fn lines_of_unix_sockets_of_old_and_new_kernels_are_read() {
        let check = |line: &str, want: Option<(&str, State)>| {
            let want = want.map(|(path, state)| (path.to_owned(), Seen(state)));
            assert_eq!(unix_word(line), want, "{line}");
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
    }

    #[test]
    fn lines_of_tcp_sockets_are_read() {
        let check = |line: &str, want: Option<State>| {
            let got = parse_tcp(line.as_bytes());
            let want = want.map(|state| (("127.0.0.1".parse().unwrap(), 33_185), Seen(state)));
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
        lines(Drip(text.as_bytes()), &mut |line| got.push(line.to_vec())).unwrap();
        assert_eq!(got[..3], [&b"first"[..], b"", b"second line"]);
        assert_eq!(got.last().map(Vec::as_slice), Some(&b"last"[..]));
    }
}
