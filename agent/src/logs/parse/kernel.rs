//! Messages of the kernel: raw records of `/dev/kmsg` (`6,1234,5678901,-;text`), what `dmesg` prints
//! (`[5678.901234] text`, `[Fri Nov 20 12:00:00 2026] text`), and kern.log of a syslog daemon.

use wire::signal::classify_kernel;

use crate::logs::parse::{access, syslog, time};
use crate::logs::{ErrorRecord, Line, Rejected};

const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/// One record of `/dev/kmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kmsg<'l> {
    /// 0 is the kernel itself: programs that write there are given another one.
    pub(crate) facility: u32,
    /// 0 (emergency) to 7 (debug).
    pub(crate) level: u32,
    /// Rises by one with each record; a gap was overwritten before it was read.
    pub(crate) seq: u64,
    /// Microseconds since boot.
    pub(crate) usec: u64,
    pub(crate) text: &'l [u8],
}

/// Reads the first line of a record; the lines after it, which begin with a space, name devices.
pub(crate) fn kmsg(line: &[u8]) -> Option<Kmsg<'_>> {
    let at = memchr::memchr(b';', &line[..line.len().min(128)])?;
    let (head, text) = (&line[..at], &line[at + 1..]);
    let mut fields = head.split(|b| *b == b',');
    let mut number = || -> Option<u64> {
        let field = fields.next()?;
        let is_number = !field.is_empty() && field.iter().all(u8::is_ascii_digit);
        is_number.then(|| std::str::from_utf8(field).ok()?.parse().ok()).flatten()
    };
    let (priority, seq, usec) = (u32::try_from(number()?).ok()?, number()?, number()?);
    let flags = fields.next()?;
    let is_flag = |b: &u8| matches!(b, b'-' | b'c' | b'+' | b'L');
    (!flags.is_empty() && flags.iter().all(is_flag)).then_some(Kmsg {
        facility: priority / 8,
        level: priority % 8,
        seq,
        usec,
        text,
    })
}

/// What a record says; `None` for one that a program wrote into the kernel's log.
pub(crate) fn record<'l>(kmsg: &Kmsg<'l>) -> Option<ErrorRecord<'l>> {
    (kmsg.facility == 0).then(|| of_text(kmsg.text, LEVELS.get(kmsg.level as usize).copied()))
}

fn of_text<'l>(text: &'l [u8], level: Option<&'static str>) -> ErrorRecord<'l> {
    let message = access::text(text);
    ErrorRecord {
        level: level.map(Into::into),
        signal: classify_kernel(&message),
        message,
        ..ErrorRecord::default()
    }
}

/// One line of any of these.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if line.first() == Some(&b' ') {
        return Line::Rejected(Rejected::Continuation);
    }
    if let Some(kmsg) = kmsg(line) {
        return match record(&kmsg) {
            Some(record) => Line::Error(record),
            None => Line::Error(ErrorRecord {
                message: access::text(kmsg.text),
                ..ErrorRecord::default()
            }),
        };
    }
    match dmesg(line) {
        Some(record) => Line::Error(record),
        None => syslog::parse(line),
    }
}

/// `[12345.678901] text`, `<4>[12345.678901] text`, `[Fri Nov 20 12:00:00 2026] text`.
fn dmesg(line: &[u8]) -> Option<ErrorRecord<'_>> {
    let (level, rest) = match line.strip_prefix(b"<") {
        Some([digit @ b'0'..=b'7', b'>', rest @ ..]) => {
            (LEVELS.get(usize::from(digit - b'0')).copied(), rest)
        }
        Some(_) => return None,
        None => (None, line),
    };
    let inside = rest.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(40)])?;
    let stamp = &inside[..end];
    let text = inside[end + 1..].strip_prefix(b" ")?;
    let since_boot = || {
        let mut parts = stamp.trim_ascii_start().split(|b| *b == b'.');
        let mut is_number =
            || parts.next().is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
        is_number() && is_number() && parts.next().is_none()
    };
    let time = time::apache_error(stamp);
    (time.is_some() || since_boot()).then(|| ErrorRecord { time, ..of_text(text, level) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::Signal;

    #[test]
    fn records_of_kmsg_are_taken_apart() {
        for (line, want) in [
            ("6,1234,5678901,-;usb 1-1: x", Some((0, 6, 1234, 5_678_901, "usb 1-1: x"))),
            ("30,7,1,-,caller=T1;systemd[1]: x; y", Some((3, 6, 7, 1, "systemd[1]: x; y"))),
            ("4,1,2,c;x", Some((0, 4, 1, 2, "x"))),
            ("6,1234,5678901;x", None),
            ("6,a,5678901,-;x", None),
            ("6,-1,5678901,-;x", None),
            ("99999999999999999999,1,1,-;x", None),
            ("", None),
            (" SUBSYSTEM=usb", None),
        ] {
            let got = kmsg(line.as_bytes());
            let got = got.map(|k| {
                (k.facility, k.level, k.seq, k.usec, std::str::from_utf8(k.text).unwrap())
            });
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn every_way_to_the_kernels_words_gives_the_same_signal() {
        let oom = "Out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB";
        for (line, signal) in [
            (format!("3,1,2,-;{oom}"), Some(Signal::Oom)),
            (format!("[12345.678901] {oom}"), Some(Signal::Oom)),
            (format!("<3>[    0.678901] {oom}"), Some(Signal::Oom)),
            (format!("[Fri Nov 20 12:00:00 2026] {oom}"), Some(Signal::Oom)),
            (format!("Nov 20 12:00:00 web kernel: [ 12.3] {oom}"), Some(Signal::Oom)),
            (format!("2026-11-20T12:00:00+01:00 web kernel: {oom}"), Some(Signal::Oom)),
            (
                "4,1,2,-;nf_conntrack: nf_conntrack: table full, dropping packet".to_owned(),
                Some(Signal::ConntrackFull),
            ),
            // A program wrote it, by /dev/kmsg or syslog.
            (format!("11,1,2,-;{oom}"), None),
            (format!("Nov 20 12:00:00 web app[7]: kernel: {oom}"), None),
        ] {
            let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((r.signal, r.gateway), (signal, false), "{line}");
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            " DEVICE=c1:11",
            "[x] y",
            "[12.3",
            "[1.2.3] y",
            "<9>[1.2] y",
            "[20-Nov-2026 12:00:00] NOTICE: x",
            "[error] x",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
