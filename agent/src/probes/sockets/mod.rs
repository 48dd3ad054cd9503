//! The kernel's sockets, over netlink or, where that is not offered, from the texts of /proc/net. The
//! only reader of either: for pools, for who listens, and for whose process that is.
//!
//! Both tell of the reader's network namespace alone.

mod diag;
mod text;

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use diag::Diag;
pub(crate) use text::hex_address;

/// After a refusal `sock_diag` is asked again.
const RETRY: Duration = Duration::from_secs(600);

/// One socket of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) inode: u64,
    /// Whose it is; not told of Unix sockets.
    pub(crate) uid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Accepts connections; `queue` wait, of at most `limit` where it is told.
    Listens { queue: u32, limit: Option<u32> },
    /// Somebody has accepted it.
    Accepted,
    /// Waits in the queue; only the text of Unix sockets lists these.
    Waits,
    /// Stands in the text beside a line that is none: a name with a line break may have made it up.
    Doubtful,
}

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// A path, or a name without a file, which begins with a zero or `@`.
    Unix(&'a [u8]),
    Tcp(IpAddr, u16),
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Not the connections: the lists are short then.
    pub(crate) listening_only: bool,
    pub(crate) unix: bool,
    /// Local ports of TCP.
    pub(crate) ports: Option<RangeInclusive<u16>>,
    /// Whether sockets of IPv4, of IPv6 count.
    pub(crate) families: [bool; 2],
}

/// The lists, and how they are read here.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    diag: Option<Diag>,
    refused_at: Option<Instant>,
    is_told: bool,
}

impl Lists {
    /// Goes through all that is wanted, with what `start` makes: anew, when netlink breaks halfway.
    ///
    /// Cost: with netlink some 20 us; a text has 100 bytes for each socket.
    pub(crate) fn look<T>(
        &mut self,
        wanted: &Wanted,
        now: Instant,
        start: impl Fn() -> T,
        note: impl Fn(&mut T, Name<'_>, Seen),
    ) -> io::Result<T> {
        let mut found = start();
        if self.look_with_diag(wanted, now, &mut |name, seen| note(&mut found, name, seen)) {
            return Ok(found);
        }
        let mut found = start();
        look_at_text(wanted, &mut |name, seen| note(&mut found, name, seen))?;
        Ok(found)
    }

    /// False when the kernel, the container or the sandbox does not offer it.
    pub(crate) fn look_with_diag(
        &mut self,
        wanted: &Wanted,
        now: Instant,
        take: &mut dyn FnMut(Name<'_>, Seen),
    ) -> bool {
        if self.refused_at.is_some_and(|at| now < at + RETRY) {
            return false;
        }
        let asked = self.diag.take().map_or_else(Diag::open, Ok).and_then(|mut diag| {
            if wanted.unix {
                diag.unix(wanted.listening_only, take)?;
            }
            if let Some(ports) = &wanted.ports {
                diag.tcp(wanted.families, ports, wanted.listening_only, take)?;
            }
            Ok(diag)
        });
        match asked {
            Ok(diag) => self.diag = Some(diag),
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::info!(
                        %error,
                        retry_after = ?RETRY,
                        "sock_diag is not offered: sockets are read from /proc/net instead"
                    );
                }
                self.refused_at = Some(now);
            }
        }
        self.diag.is_some()
    }
}

/// The same from /proc/net.
pub(crate) fn look_at_text(
    wanted: &Wanted,
    take: &mut dyn FnMut(Name<'_>, Seen),
) -> io::Result<()> {
    if wanted.unix {
        text::unix(wanted.listening_only, take)?;
    }
    if let Some(ports) = &wanted.ports {
        text::tcp(wanted.families, ports, wanted.listening_only, take)?;
    }
    Ok(())
}
