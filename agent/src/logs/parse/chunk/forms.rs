//! A format -> the forms its plain lines have, as the kernel runs them.
//!
//! Servers that escape no quotes are read by their parsers from both ends, where only one place
//! fits. With as many quotes as there are fields in quotes, a second place would need a value that
//! starts with a space: such lines are left to the parser.

use crate::logs::parse::log_format::{self, LogFormat, TimeStyle};
use crate::logs::parse::{Format, aws};
use crate::logs::scan::shape::{End, Keep, Op, Shape, Value, push, see_dashes};

/// The forms, none for some formats, and how their time is written.
pub(super) fn of(format: &Format) -> (Vec<Shape>, TimeStyle) {
    match format {
        Format::Program(format) => (program(format).into_iter().collect(), format.time.clone()),
        Format::Npm(formats) => {
            (formats.iter().filter_map(program).collect(), formats[0].time.clone())
        }
        Format::Clf => (clf(), TimeStyle::Clf),
        Format::Litespeed => (clf().into_iter().chain(in_quotes()).collect(), TimeStyle::Clf),
        Format::LitespeedQuoted => (in_quotes().into_iter().collect(), TimeStyle::Clf),
        Format::Varnish => (vec![with_url()], TimeStyle::Clf),
        Format::Traefik => (["http://", "https://"].map(traefik).into(), TimeStyle::Clf),
        Format::Envoy => (vec![envoy()], TimeStyle::Iso8601),
        Format::Aws => (vec![alb()], TimeStyle::Iso8601),
        Format::W3c(log) => (log.shape().into_iter().collect(), TimeStyle::W3c),
        _ => (Vec::new(), TimeStyle::Clf),
    }
}

fn program(format: &LogFormat) -> Option<Shape> {
    let per_s = format.time_is_start.then_some(format.request_time_per_s);
    // The kernel counts no attempts whose addresses are not logged.
    let is_for_kernel = !format.is_varnish && !format.program.has_bare_attempts();
    Shape::of(&format.program, per_s).filter(|_| is_for_kernel)
}

fn clf() -> Vec<Shape> {
    let with_more = format!("{} \"$more\"", log_format::COMBINED);
    [log_format::COMBINED, &with_more, log_format::VHOST_COMBINED, log_format::COMMON]
        .iter()
        .filter_map(|form| of_clf(form))
        .collect()
}

fn of_clf(form: &str) -> Option<Shape> {
    Shape::of_clf(&log_format::compile(form)?.program)
}

/// `combined`, each line in quotes.
fn in_quotes() -> Option<Shape> {
    of_clf(&format!("\"{}\"", log_format::COMBINED))
}

/// What every server writes before the request: client, user, and the time in brackets.
fn clf_head(client: Value) -> Vec<Op> {
    let mut ops = Vec::new();
    push(&mut ops, End::Byte(b' '), b" - ", Keep::Client, client);
    push(&mut ops, End::Before(b'[', 1), b" [", Keep::Nothing, Value::Name);
    push(&mut ops, End::Mark(2), b"] \"", Keep::Time, Value::Any);
    see_dashes(&mut ops);
    ops
}

/// `combined` of Varnish, whose requests name the host.
fn with_url() -> Shape {
    let mut ops = clf_head(Value::Without(b','));
    push(&mut ops, End::Mark(0), b"\" ", Keep::UrlHost, Value::Any);
    push(&mut ops, End::Status, b" ", Keep::Status, Value::Any);
    push(&mut ops, End::Mark(1), b" \"", Keep::Nothing, Value::Count);
    push(&mut ops, End::Mark(0), b"\" \"", Keep::Nothing, Value::Any);
    push(&mut ops, End::Mark(0), b"\"", Keep::Nothing, Value::Any);
    Shape::new(ops, None, false)
}

/// A value in the quotes of a server that does not escape those of a client.
const UNESCAPED: Value = Value::Not(b' ');
/// Units of a duration in milliseconds.
const MS_PER_S: f64 = 1000.0;

/// `client - user [time] "request" status bytes "referer" "agent" count "router" "url" 12ms`
fn traefik(scheme: &str) -> Shape {
    // What begins with a brace is read as JSON.
    let mut ops = clf_head(Value::Without(b'{'));
    push(&mut ops, End::Mark(0), b"\" ", Keep::Nothing, Value::Any);
    push(&mut ops, End::Status, b" ", Keep::Status, Value::Any);
    push(&mut ops, End::Mark(1), b" \"", Keep::Nothing, Value::Count);
    push(&mut ops, End::Mark(0), b"\" \"", Keep::Nothing, UNESCAPED);
    push(&mut ops, End::Mark(0), b"\" ", Keep::Nothing, UNESCAPED);
    push(&mut ops, End::Mark(1), b" \"", Keep::Nothing, Value::Count);
    let url = format!("\" \"{scheme}");
    push(&mut ops, End::Mark(0), url.as_bytes(), Keep::Nothing, UNESCAPED);
    push(&mut ops, End::Mark(0), b"\" ", Keep::Upstream, Value::Without(b'/'));
    push(&mut ops, End::Byte(b'm'), b"ms", Keep::Duration, Value::Any);
    Shape::new(ops, Some(MS_PER_S), false)
}

/// `[time] "request" status - bytes bytes duration service "forwarded" "agent" "id" "authority"
/// "upstream"`, without flags.
fn envoy() -> Shape {
    let mut ops = Vec::new();
    push(&mut ops, End::Here, b"[", Keep::Nothing, Value::Any);
    push(&mut ops, End::Mark(2), b"] \"", Keep::Time, Value::Instant);
    push(&mut ops, End::Mark(0), b"\" ", Keep::Nothing, Value::Any);
    push(&mut ops, End::Status, b" - ", Keep::Status, Value::Any);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Nothing, Value::Digits);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Nothing, Value::Digits);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Duration, Value::Any);
    push(&mut ops, End::Mark(1), b" \"", Keep::Nothing, Value::Count);
    push(&mut ops, End::Mark(0), b"\" \"", Keep::Client, Value::Portless);
    push(&mut ops, End::Mark(0), b"\" \"", Keep::Nothing, UNESCAPED);
    push(&mut ops, End::Mark(0), b"\" \"", Keep::Nothing, UNESCAPED);
    push(&mut ops, End::Byte(b'"'), b"\" \"", Keep::Host, Value::Without(b' '));
    push(&mut ops, End::Mark(0), b"\"", Keep::Upstream, Value::Without(b'/'));
    // Its parser takes no field for a value that is not UTF-8.
    Shape::new(ops, Some(MS_PER_S), true)
}

/// `type time name client target waited answered sent status target_status bytes bytes "request"`
/// of an application load balancer, and whatever it writes behind.
fn alb() -> Shape {
    let mut ops = Vec::new();
    push(&mut ops, End::Byte(b' '), b" ", Keep::Nothing, Value::Of(&aws::TYPES));
    push(&mut ops, End::Byte(b' '), b" ", Keep::Time, Value::Instant);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Nothing, Value::Not(b' '));
    push(&mut ops, End::Byte(b' '), b" ", Keep::Peer, Value::Any);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Upstream, Value::Peer);
    push(&mut ops, End::Nth(b' ', 3), b" ", Keep::Nothing, Value::Decimals);
    push(&mut ops, End::Status, b" ", Keep::Status, Value::Any);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Nothing, Value::Count);
    push(&mut ops, End::Byte(b' '), b" ", Keep::Nothing, Value::Count);
    push(&mut ops, End::Mark(1), b" \"", Keep::Nothing, Value::Count);
    push(&mut ops, End::Mark(0), b"\"", Keep::UrlHost, Value::Any);
    Shape { is_open: true, ..Shape::new(ops, None, false) }
}
