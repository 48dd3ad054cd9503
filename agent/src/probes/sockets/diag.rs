//! The kernel's sockets over netlink (`sock_diag`, Linux 3.3): what `ss` asks, unprivileged.
//!
//! Preferred to the texts of /proc/net for two reasons. Of TCP the kernel hands out only sockets of the
//! ports asked for: a box with 50,000 connections costs one walk of its table, and not megabytes of
//! text. And a path comes as bytes with a length: in the text a user's socket whose name holds a
//! newline looks like any line it likes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Name, Seen, State};

/// One answer of the kernel holds at most this much.
const BUFFER_BYTES: usize = 32 << 10;
/// Longest answer read: some 250,000 Unix sockets.
const DUMP_BYTES_MAX: usize = 24 << 20;
/// The kernel answers at once; a wait means that it never will.
const PATIENCE: Duration = Duration::from_millis(500);

const HEADER_BYTES: usize = 16;
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`.
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const UNIX: u8 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
const STREAM: u8 = 1;
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// Path and lengths of queues (`UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN`).
const SHOW: u32 = 0x11;
const UNIX_BYTES: usize = 16;
const UNIX_NAME: u16 = 0;
const UNIX_QUEUES: u16 = 4;
const INET_BYTES: usize = 72;

/// A netlink socket that stays open; one that an answer was not read to its end of is closed.
#[derive(Debug)]
pub(super) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Every listening and, unless these are not wanted, connected Unix stream socket that has a name.
    pub(super) fn unix(
        &mut self,
        listening_only: bool,
        take: &mut dyn FnMut(Name<'_>, Seen),
    ) -> io::Result<()> {
        self.dump(&unix_request(listening_only), &mut |message| {
            if let Some((name, seen)) = parse_unix(message) {
                take(Name::Unix(name), seen);
            }
        })
    }

    /// Every such TCP socket with a local port in the range. Connections of each of the two families
    /// cost a walk of the kernel's table, whose size grows with the machine's memory.
    pub(super) fn tcp(
        &mut self,
        families: [bool; 2],
        ports: &RangeInclusive<u16>,
        listening_only: bool,
        take: &mut dyn FnMut(Name<'_>, Seen),
    ) -> io::Result<()> {
        for (family, is_asked) in [INET, INET6].into_iter().zip(families) {
            if !is_asked {
                continue;
            }
            self.dump(&inet_request(family, ports, listening_only), &mut |message| {
                if let Some(((ip, port), seen)) = parse_inet(message) {
                    take(Name::Tcp(ip, port), seen);
                }
            })?;
        }
        Ok(())
    }

    fn dump(&mut self, request: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        rustix::net::send(&self.socket, request, SendFlags::empty())?;
        let mut n_bytes = 0;
        while n_bytes < DUMP_BYTES_MAX {
            let received =
                rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty());
            let (len, _) = match received {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            n_bytes += len.max(1);
            if messages(&self.buffer[..len], take)? {
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "more sockets than are looked at"))
    }
}

/// Hands on the messages of one answer; true when the dump ends with it.
fn messages(mut rest: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    while let Some(len) = number(rest, 0).map(|len| len as usize) {
        let Some(kind) = half(rest, 4) else { break };
        let Some(body) = rest.get(HEADER_BYTES..len) else { break };
        match kind {
            DONE => return Ok(true),
            ERROR => {
                let code = number(body, 0).map_or(0, |code| (code as i32).saturating_neg());
                return Err(io::Error::from_raw_os_error(code));
            }
            BY_FAMILY => take(body),
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn with_header(body: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER_BYTES + body.len());
    request.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// `struct unix_diag_req`.
fn unix_request(listening_only: bool) -> Vec<u8> {
    let connected = if listening_only { 0 } else { 1_u32 << ESTABLISHED };
    let states = connected | 1 << LISTEN;
    let mut body = vec![UNIX, 0, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend([0; 4]);
    body.extend(SHOW.to_ne_bytes());
    body.extend([0; 8]);
    with_header(&body)
}

/// `struct inet_diag_req_v2` with a program that lets only these local ports through.
fn inet_request(family: u8, ports: &RangeInclusive<u16>, listening_only: bool) -> Vec<u8> {
    /// The program ends with no byte left to accept, and 4 behind its end to refuse.
    const PROGRAM_BYTES: u16 = 16;
    let connected = if listening_only { 0 } else { 1_u32 << ESTABLISHED | 1 << CLOSE_WAIT };
    let states = connected | 1 << LISTEN;
    let mut body = vec![family, TCP, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend([0; 48]);
    // One attribute, INET_DIAG_REQ_BYTECODE.
    body.extend((4 + PROGRAM_BYTES).to_ne_bytes());
    body.extend(1_u16.to_ne_bytes());
    // Code (2: at least, 3: at most), bytes to jump when true, bytes to jump when not; then the port.
    for (code, port, left) in [(2, *ports.start(), PROGRAM_BYTES), (3, *ports.end(), 8)] {
        body.extend([code, 8]);
        body.extend((left + 4).to_ne_bytes());
        body.extend([0, 0]);
        body.extend(port.to_ne_bytes());
    }
    with_header(&body)
}

/// `struct unix_diag_msg` and its attributes. Connections that nobody has accepted yet have no inode,
/// and the kernel leaves them out: they are the listener's queue.
fn parse_unix(message: &[u8]) -> Option<(&[u8], Seen)> {
    if *message.first()? != UNIX || *message.get(1)? != STREAM {
        return None;
    }
    let state = *message.get(2)?;
    let inode = number(message, 4)?.into();
    let (mut path, mut queue, mut limit) = (None, 0, None);
    let mut rest = message.get(UNIX_BYTES..)?;
    while let Some(len) = half(rest, 0).map(usize::from) {
        let Some(value) = rest.get(4..len) else { break };
        match half(rest, 2)? & 0x3FFF {
            UNIX_NAME => path = Some(value.strip_suffix(b"\0").unwrap_or(value)),
            UNIX_QUEUES => (queue, limit) = (number(value, 0)?, number(value, 4)),
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    let state = match state {
        LISTEN => State::Listens { queue, limit },
        ESTABLISHED => State::Accepted,
        _ => return None,
    };
    Some((path?, Seen { state, inode, uid: None }))
}

/// `struct inet_diag_msg`.
fn parse_inet(message: &[u8]) -> Option<((IpAddr, u16), Seen)> {
    if message.len() < INET_BYTES {
        return None;
    }
    let port = u16::from_be_bytes([message[4], message[5]]);
    let source: [u8; 16] = message[8..24].try_into().ok()?;
    let ip = match message[0] {
        INET => Ipv4Addr::new(source[0], source[1], source[2], source[3]).into(),
        INET6 => Ipv6Addr::from(source).to_canonical(),
        _ => return None,
    };
    let (uid, inode) = (number(message, 64)?, number(message, 68)?);
    let state = match message[1] {
        LISTEN => State::Listens { queue: number(message, 56)?, limit: number(message, 60) },
        // Without an inode it waits in the listener's queue, which counts it.
        ESTABLISHED | CLOSE_WAIT if inode != 0 => State::Accepted,
        _ => return None,
    };
    Some(((ip, port), Seen { state, inode: inode.into(), uid: Some(uid) }))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| {
            u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hexadecimal")
        };
        digits.chunks(2).map(byte).collect()
    }

    // Recorded on Linux 6.18, little-endian: a listener at /tmp/exp.sock, one of its connections.
    const LISTENER: &str =
        "01010a00 ff9b1100 05000000 00000000 12000000 2f746d702f6578702e736f636b 000000
        0c000400 03000000 07000000 05000600 00000000";
    const CONNECTION: &str =
        "01010100 05a01100 03000000 00000000 12000000 2f746d702f6578702e736f636b
        000000 0c000400 00000000 00000000 05000600 03000000";
    const TCP_LISTENER: &str = "020a0000 81a10000 7f000001 000000000000000000000000 00000000
        000000000000000000000000 00000000 1500000000000000 00000000 02000000 05000000 00000000 11a01100
        0500080000000000";

    #[cfg(target_endian = "little")]
    #[test]
    fn answers_of_the_kernel_are_read() {
        let of_unix = |state, inode| Seen { state, inode, uid: None };
        let listens = |queue, limit| State::Listens { queue, limit: Some(limit) };
        let path = &b"/tmp/exp.sock"[..];
        let listener = of_unix(listens(3, 7), 0x11_9bff);
        assert_eq!(parse_unix(&hex(LISTENER)), Some((path, listener)));
        let connection = of_unix(State::Accepted, 0x11_a005);
        assert_eq!(parse_unix(&hex(CONNECTION)), Some((path, connection)));
        let address = (Ipv4Addr::LOCALHOST.into(), 33_185);
        let of_root = |state| Seen { state, inode: 0x11_a011, uid: Some(0) };
        assert_eq!(parse_inet(&hex(TCP_LISTENER)), Some((address, of_root(listens(2, 5)))));
        let mut accepted = hex(TCP_LISTENER);
        accepted[1] = ESTABLISHED;
        assert_eq!(parse_inet(&accepted), Some((address, of_root(State::Accepted))));
        accepted[68..72].fill(0);
        assert_eq!(parse_inet(&accepted), None, "nobody has accepted it yet");
    }

    #[test]
    fn no_answer_makes_it_panic() {
        for whole in [hex(LISTENER), hex(CONNECTION), hex(TCP_LISTENER)] {
            for end in 0..whole.len() {
                parse_unix(&whole[..end]);
                parse_inet(&whole[..end]);
                for byte in [0, 1, 0xFF] {
                    let mut other = whole.clone();
                    other[end] = byte;
                    parse_unix(&other);
                    messages(&other, &mut |_| ()).ok();
                }
            }
        }
        assert!(messages(&with_header(&[1, 2, 3, 4]), &mut |_| ()).is_ok_and(|is_done| !is_done));
    }
}
