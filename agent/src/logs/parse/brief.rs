//! Lines that the kernel cannot read -> plain requests, without the record that nobody asks for.
//!
//! Invariant: what is said here of a line is what its whole record would say.

use crate::logs::LineTime;
use crate::logs::event_time::EventClock;
use crate::logs::parse::{Format, LINE_BYTES_MAX, access, clf, haproxy, time};
use crate::logs::scan::Plain;

/// What a plain line tells, as bytes of the line; empty = it does not say.
pub(super) struct Brief<'l> {
    pub(super) host: &'l [u8],
    pub(super) client: &'l [u8],
    pub(super) upstream: &'l [u8],
    pub(super) time: Option<LineTime>,
    /// Of the request, where `time` is its start.
    pub(super) duration_s: Option<f64>,
    pub(super) status: u16,
}

/// Times of the line before: the next line mostly has the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    /// The text up to its seconds, and milliseconds as if it were UTC.
    clf: Option<([u8; 20], i64)>,
    /// `Nov 20 12:47:17`
    syslog: Option<[u8; 15]>,
}

impl Times {
    /// The same as [`time::clf`].
    pub(super) fn clf(&mut self, text: &[u8]) -> Option<LineTime> {
        let (head, rest) = text.split_first_chunk()?;
        if let Some((known, ms)) = &self.clf
            && known == head
        {
            return time::clf_rest(*ms, rest);
        }
        let ms = time::clf_head(head)?;
        self.clf = Some((*head, ms));
        time::clf_rest(ms, rest)
    }

    /// What follows the time at the start of a syslog line, as [`time::syslog_prefix`] finds it.
    pub(super) fn after_syslog<'l>(&mut self, text: &'l [u8]) -> Option<&'l [u8]> {
        let head = text.first_chunk();
        if head.is_some() && head == self.syslog.as_ref() && text.get(15) == Some(&b' ') {
            return Some(&text[15..]);
        }
        let (_, rest) = time::syslog_prefix(text)?;
        self.syslog = head.filter(|_| text.len() - rest.len() == 15).copied();
        Some(rest)
    }
}

/// `None` = the whole parser has to look at the line.
pub(super) fn plain<'l>(
    format: &Format,
    raw: &'l [u8],
    times: &mut Times,
    clock: Option<&mut EventClock>,
) -> Option<Plain<'l>> {
    let line = raw.strip_suffix(b"\r").unwrap_or(raw);
    if line.len() > LINE_BYTES_MAX {
        return None;
    }
    let brief = match format {
        Format::Program(format) => access::brief(format, line, times)?,
        Format::Clf => clf::brief(line, times)?,
        Format::Haproxy(host_at) => haproxy::brief(line, times, *host_at)?,
        _ => return None,
    };
    let ms = match brief.time {
        None => None,
        Some(LineTime::Instant { at, .. }) => Some(at.0),
        Some(LineTime::Wall(wall)) => Some(clock?.instant_at_any_time(wall)?),
        Some(LineTime::WallNoYear(_)) => return None,
    };
    let lasted_ms = brief.duration_s.map_or(0, |seconds| (seconds.min(1e9) * 1000.0) as i64);
    Some(Plain {
        raw,
        host: brief.host,
        client: brief.client,
        upstream: brief.upstream,
        second: ms.map(|ms| ms.saturating_add(lasted_ms).div_euclid(1000)),
        status: brief.status,
    })
}
