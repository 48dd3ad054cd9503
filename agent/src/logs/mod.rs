//! Stage 1b: lines of logs -> records -> counts and gateway errors.
//!
//! The types the parsers hand on. They borrow from the read buffer: counting a line copies nothing.

use std::borrow::Cow;

use wire::UnixMillis;
use wire::v1::Signal;

pub mod sources;
pub mod tail;
pub mod watch;
pub mod checkpoint;
pub mod file;
#[doc(hidden)]
pub mod fuzzing;
pub mod listing;
mod olddir;
pub mod crawler;
pub(crate) mod event_time;
mod evidence;
pub mod join;
mod judged;
pub mod kernel;
pub mod parse;
mod privacy;
mod refused;
pub mod scan;
pub(crate) mod sites;
pub(crate) mod slow;

/// When a line says it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineTime {
    /// The line has an offset, or is in UTC by definition.
    Instant {
        /// When.
        at: UnixMillis,
        /// Offset the line gives, seconds east of UTC.
        offset_s: i32,
    },
    /// Wall clock without offset; the zone of the source decides. Milliseconds as if it were UTC.
    Wall(i64),
    /// Wall clock without year or offset, as if in UTC of the year 1972 (a leap year).
    WallNoYear(i64),
}

/// One request, as one line of an access log tells it. Absent = the line does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessRecord<'a> {
    /// When it ended (nginx) or started (Apache; `request_time` is then added).
    pub time: Option<LineTime>,
    /// Host as the client asked for it, or the vhost the server chose.
    pub host: Option<Cow<'a, str>>,
    /// Client address.
    pub client: Option<Cow<'a, str>>,
    /// X-Forwarded-For: the first address is the client's own word, each proxy added one behind it.
    pub forwarded_for: Option<Cow<'a, str>>,
    /// Request method.
    pub method: Option<Cow<'a, str>>,
    /// Request target with query.
    pub path: Option<Cow<'a, str>>,
    /// Status sent to the client.
    pub status: Option<u16>,
    /// Upstream attempts in order.
    pub attempts: Vec<Attempt<'a>>,
    /// Seconds.
    pub request_time: Option<f64>,
    /// `User-Agent`.
    pub user_agent: Option<Cow<'a, str>>,
    /// `time` is the start of the request; its end is `request_time` later.
    pub time_is_start: bool,
    /// The line itself says that an upstream failed or none was left (HAProxy state, Envoy flags).
    pub upstream_failed: bool,
    /// The line has a place for upstreams and says that none was asked.
    pub no_upstream: bool,
    /// What the line itself says went wrong.
    pub signal: Option<Signal>,
}

/// One try at one upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempt<'a> {
    /// Address.
    pub upstream: Cow<'a, str>,
    /// Status the upstream gave, if any.
    pub status: Option<u16>,
    /// Seconds.
    pub time: Option<f64>,
    /// It was asked because the request went on to another group, not because the one before failed.
    pub is_other_group: bool,
}

impl AccessRecord<'_> {
    /// The attempts before the last one that failed.
    ///
    /// One without a status failed, for why else was another made; unless the request was handed on
    /// to another group, which nginx does for other reasons too.
    pub fn failed_attempts(&self) -> impl Iterator<Item = &Attempt<'_>> {
        let failed = |pair: &[Attempt<'_>]| match pair {
            [earlier, next] => earlier.status.map_or(!next.is_other_group, |status| status >= 500),
            _ => false,
        };
        let pairs = self.attempts.windows(2).filter(move |pair| failed(pair));
        pairs.filter_map(|pair| pair.first())
    }

    /// True when the visitor got a good answer after an upstream had failed: an early warning.
    #[must_use]
    pub fn hid_a_failure(&self) -> bool {
        self.status.is_some_and(|status| status < 500) && self.failed_attempts().next().is_some()
    }
}

impl AccessRecord<'_> {
    /// The first address of X-Forwarded-For.
    #[must_use]
    pub fn forwarded_first(&self) -> Option<&str> {
        let first = self.forwarded_for.as_deref()?.split(',').next()?.trim();
        (!first.is_empty() && first != "-").then_some(first)
    }
}

/// One line of an error log or system log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorRecord<'a> {
    /// When.
    pub time: Option<LineTime>,
    /// Level as written.
    pub level: Option<Cow<'a, str>>,
    /// Module of Apache that wrote the line, where it is told.
    pub module: Option<Cow<'a, str>>,
    /// What it says, without the prefix.
    pub message: Cow<'a, str>,
    /// What happened, when the text tells.
    pub signal: Option<Signal>,
    /// True when the line is about a failed upstream request.
    pub gateway: bool,
    /// Client address.
    pub client: Option<Cow<'a, str>>,
    /// nginx `server:`.
    pub server_name: Option<Cow<'a, str>>,
    /// nginx `host:`.
    pub host: Option<Cow<'a, str>>,
    /// Request method.
    pub method: Option<Cow<'a, str>>,
    /// Request target with query.
    pub path: Option<Cow<'a, str>>,
    /// Upstream address.
    pub upstream: Option<Cow<'a, str>>,
    /// PHP-FPM pool the line names.
    pub pool: Option<Cow<'a, str>>,
    /// Connection number of nginx (`*8`), to join lines of one request.
    pub connection: Option<u64>,
    /// Status sent to the client, where the line tells it (Caddy).
    pub status: Option<u16>,
    /// Seconds the request took, where the line tells them.
    pub request_time: Option<f64>,
}

/// Why a line is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejected {
    /// Nothing in it.
    Blank,
    /// A comment or directive of the format.
    Directive,
    /// The line goes on from one before.
    Continuation,
    /// The format's fields are not there.
    Malformed,
    /// Longer than the limit.
    TooLong,
    /// The status is no number of three digits.
    BadStatus,
    /// The time cannot be read.
    BadTime,
    /// The agent's own question for a status page: nobody's visit.
    OwnRequest,
}

impl Rejected {
    /// The reason as `parse` and the loss ledger print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Directive => "directive",
            Self::Continuation => "continuation",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::BadStatus => "bad_status",
            Self::BadTime => "bad_time",
            Self::OwnRequest => "own_request",
        }
    }
}

/// What one line turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// A request.
    Access(AccessRecord<'a>),
    /// A line of an error or system log.
    Error(ErrorRecord<'a>),
    /// No record.
    Rejected(Rejected),
}
