//! Every web server and proxy of Debian in front of backends that fail in every way: the agent names
//! the sites, counts exactly and tells what went wrong.

use harness::{
    Apache, Backends, Caddy, Fault, Haproxy, HaproxyLog, Lighttpd, NcsaFormat, Nginx, Root,
    Varnish, Volley,
};
use wire::v1::Signal as S;

use crate::faults::{Case, Story, answers, assert_discovers, fails, faults, known};

#[test]
fn nginx_in_front_of_failing_backends_is_counted_and_explained() {
    const LOG: &str = "var/log/nginx/*.access.log";
    const CASES: [Case; 14] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(500), 500),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], ""),
        fails(Fault::Answers(504), 504, &[], ""),
        fails(Fault::Reset, 502, &[S::Reset], "recv() failed (104: Connection reset by peer)"),
        fails(Fault::Closed, 502, &[S::PrematureClose], "upstream prematurely closed connection"),
        fails(Fault::ClosedInHeaders, 502, &[S::PrematureClose], "prematurely closed connection"),
        fails(Fault::BadHeader, 502, &[S::InvalidHeader], "upstream sent invalid header"),
        fails(
            Fault::Hangs,
            504,
            &[S::TimeoutRead],
            "upstream timed out (110: Connection timed out)",
        ),
        fails(Fault::Refused, 502, &[S::ConnectRefused], "connect() failed (111: "),
        fails(Fault::NoSocket, 502, &[S::NoSuchSocket], "missing.sock failed (2: No such file"),
        fails(
            Fault::DeadSocket,
            502,
            &[S::ConnectRefused],
            "dead.sock failed (111: Connection ref",
        ),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let nginx = Nginx::start_proxy(&root, backends.sites());
    let volley = Volley::at(nginx.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}

#[test]
fn apache_in_front_of_failing_backends_is_counted_and_explained_although_it_answers_503() {
    const LOG: &str = "var/log/apache2/other_vhosts_access.log";
    const CASES: [Case; 15] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(500), 500),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], ""),
        fails(Fault::Answers(504), 504, &[], ""),
        fails(Fault::Reset, 502, &[S::Reset], "(104)Connection reset by peer"),
        fails(Fault::Closed, 502, &[S::PrematureClose], "AH01102: error reading status line"),
        fails(Fault::ClosedInHeaders, 502, &[S::PrematureClose, S::InvalidHeader], "AH01106"),
        fails(
            Fault::Garbage,
            502,
            &[S::PrematureClose, S::InvalidHeader],
            "(70014)End of file found",
        ),
        fails(Fault::BadHeader, 502, &[S::InvalidHeader], "AH01106: bad HTTP/1.1 header"),
        // A read timeout is a 502 of Apache, not a 504.
        fails(Fault::Hangs, 502, &[S::TimeoutRead], "(70007)The timeout specified has expired"),
        fails(Fault::Refused, 503, &[S::ConnectRefused], "(111)Connection refused: AH00957"),
        fails(Fault::NoSocket, 503, &[S::NoSuchSocket], "(2)No such file or directory: AH02454"),
        fails(Fault::DeadSocket, 503, &[S::ConnectRefused], "(111)Connection refused: AH02454"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let apache = Apache::start_proxy(&root, backends.sites());
    let volley = Volley::at(apache.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}

#[test]
fn haproxy_in_front_of_failing_backends_is_counted_and_explained_by_its_termination_states() {
    const LOG: &str = "var/log/haproxy.log";
    const CASES: [Case; 14] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(500), 500),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], " 502 "),
        fails(Fault::Answers(504), 504, &[], " 504 "),
        fails(Fault::Reset, 502, &[S::PrematureClose, S::Reset], "be_reset/s1"),
        fails(Fault::Closed, 502, &[S::PrematureClose], " SH-- "),
        fails(Fault::ClosedInHeaders, 502, &[S::PrematureClose], "be_cut/s1"),
        fails(Fault::Garbage, 502, &[S::InvalidHeader, S::Other], " PH-- "),
        fails(Fault::Hangs, 504, &[S::TimeoutRead], " sH-- "),
        fails(Fault::Refused, 503, &[S::ConnectRefused], " SC-- "),
        // HAProxy says the same of a socket without listener and of none at all.
        fails(Fault::NoSocket, 503, &[S::ConnectRefused, S::NoSuchSocket], "be_nosocket/s1"),
        fails(Fault::DeadSocket, 503, &[S::ConnectRefused], "be_deadsocket/s1"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let haproxy = Haproxy::start(&root, backends.sites(), HaproxyLog::Traditional);
    let volley = Volley::with_proxy_line(haproxy.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}

#[test]
fn varnish_with_the_reason_in_its_log_tells_failed_fetches_from_planned_pages() {
    const LOG: &str = "var/log/varnish/varnishncsa.log";
    // That the fetch failed is all it says: what went wrong is in no log.
    const UNTOLD: &[S] = &[S::Other];
    const CASES: [Case; 14] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(500), 500),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], " 502 "),
        fails(Fault::Answers(504), 504, &[], " 504 "),
        fails(Fault::Reset, 503, UNTOLD, "\"Backend fetch failed\""),
        fails(Fault::Closed, 503, UNTOLD, "http://closed.test/page/"),
        fails(Fault::Garbage, 503, UNTOLD, "http://garbage.test/page/"),
        fails(Fault::BadHeader, 503, UNTOLD, "http://badheader.test/page/"),
        fails(Fault::Hangs, 503, UNTOLD, "http://hangs.test/page/"),
        fails(Fault::Refused, 503, UNTOLD, "http://refused.test/page/"),
        fails(Fault::NoSocket, 503, UNTOLD, "http://nosocket.test/page/"),
        fails(Fault::DeadSocket, 503, UNTOLD, "http://deadsocket.test/page/"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let varnish = Varnish::start(&root, backends.sites(), NcsaFormat::WithReason);
    let volley = Volley::with_proxy_line(varnish.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}

#[test]
fn varnish_with_its_default_log_makes_no_gateway_error_of_a_503_that_nothing_explains() {
    const LOG: &str = "var/log/varnish/varnishncsa.log";
    const CASES: [Case; 5] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], " 502 "),
        // The backend is up, and what it did is in no log.
        answers(Fault::Closed, 503),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let varnish = Varnish::start(&root, backends.sites(), NcsaFormat::Default);
    let volley = Volley::with_proxy_line(varnish.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}

#[test]
fn caddy_in_front_of_failing_backends_is_counted_and_explained_by_its_own_log() {
    const LOG: &str = "var/log/caddy/*.log";
    const CASES: [Case; 14] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(500), 500),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], ""),
        fails(Fault::Answers(504), 504, &[], ""),
        fails(Fault::Reset, 502, &[S::Reset], "read: connection reset by peer"),
        fails(Fault::Closed, 502, &[S::PrematureClose], "\"msg\":\"EOF\""),
        fails(Fault::ClosedInHeaders, 502, &[S::PrematureClose], "unexpected EOF"),
        fails(Fault::Garbage, 502, &[S::InvalidHeader], "malformed HTTP response"),
        fails(Fault::BadHeader, 502, &[S::InvalidHeader], "malformed MIME header"),
        fails(Fault::Hangs, 504, &[S::TimeoutRead], "timeout awaiting response headers"),
        fails(Fault::Refused, 502, &[S::ConnectRefused], "connect: connection refused"),
        fails(Fault::NoSocket, 502, &[S::NoSuchSocket], "connect: no such file or directory"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let caddy = Caddy::start(&root, backends.sites());
    let volley = Volley::at(caddy.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}

#[test]
fn lighttpd_in_front_of_failing_backends_is_counted_and_its_500_are_the_applications() {
    const LOG: &str = "var/log/lighttpd/access.log";
    const CASES: [Case; 11] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(500), 500),
        answers(Fault::Answers(503), 503),
        // By its status this is the application's, whatever the error log says.
        answers(Fault::Reset, 500),
        answers(Fault::Closed, 500),
        fails(Fault::Answers(502), 502, &[], ""),
        fails(Fault::Answers(504), 504, &[], ""),
        fails(Fault::Hangs, 504, &[S::TimeoutRead], "read timeout on socket: tcp:"),
        fails(
            Fault::Refused,
            503,
            &[S::ConnectRefused],
            "establishing connection failed: socket: ",
        ),
        fails(Fault::NoSocket, 503, &[S::NoSuchSocket], "missing.sock: No such file or directory"),
        fails(Fault::DeadSocket, 503, &[S::ConnectRefused], "dead.sock: Connection refused"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let lighttpd = Lighttpd::start(&root, backends.sites());
    let volley = Volley::at(lighttpd.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    assert_discovers(&fleet, &root, known(backends.sites(), LOG));
}
