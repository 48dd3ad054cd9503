//! Outages of several servers, and the cause each has.

use super::cause_scenes::{
    CHILDREN, DROPPED, FPM, Fails, NONE_LEFT, PERMISSION, PROBE_NAME, REFUSED_FAR, RESOLVER,
    SEGFAULT, SIGNAL_11, SLOW, Scene, calm, fails, one, sampled,
};
use super::script::{EAGAIN, NO_SOCKET, RESET, Script};

/// Six servers of four sites; five of them fail.
pub(crate) fn fleet() -> Script {
    let script = (1..=6)
        .fold(Script::default(), |script, n| script.server(&format!("web-0{n}"), &[("www", 4)]));
    (1..=6).fold(script, |script, n| calm(script.unit(-30, n, FPM, "active"), n))
}

#[expect(clippy::too_many_lines, reason = "a table: one entry after the other")]
pub(crate) fn of_groups() -> Vec<Scene> {
    let group = |texts: &'static [&'static str], script: Script| {
        fails(script, Fails { until: 20, status: 502, texts })
    };
    let each = |script: Script, f: &dyn Fn(Script, i64) -> Script| (1..=5).fold(script, f);
    let quiet = |script| each(script, &|s, n| sampled(s, n, &[]));
    let with =
        |values: &'static [(&'static str, f64)]| each(fleet(), &|s, n| sampled(s, n, values));
    vec![
        one(
            "a hypervisor without processors",
            "steal",
            "group",
            group(
                &[SLOW, EAGAIN],
                with(&[("system.cpu.steal", 0.4), ("system.pressure.cpu", 0.5)]),
            ),
        ),
        one(
            "a network that loses packets",
            "network",
            "group",
            group(&[DROPPED], with(&[("system.network.tcp.retransmit", 0.25)])),
        ),
        one("a provider's resolver", "dns", "group", group(&[RESOLVER], quiet(fleet()))),
        one(
            "a rollout of rules",
            "firewall",
            "group",
            group(
                &[DROPPED],
                quiet(each(fleet(), &|s, n| {
                    s.change(10 + n, n, "firewall", "nft ruleset changed")
                })),
            ),
        ),
        one(
            "a rollout of PHP that does not start",
            "service_down",
            "group",
            group(
                &[NO_SOCKET],
                quiet(each(fleet(), &|s, n| {
                    s.change(12, n, "package", "php8.2-fpm 8.2.7 to 8.2.29")
                        .unit(19, n, FPM, "failed")
                })),
            ),
        ),
        one(
            "a rollout of a broken configuration",
            "misconfig",
            "group",
            group(
                &[PERMISSION],
                quiet(each(fleet(), &|s, n| {
                    s.change(12, n, "config", "/etc/php/8.2/fpm/pool.d/www.conf")
                })),
            ),
        ),
        one(
            "php stopped everywhere",
            "service_down",
            "group",
            group(&[NO_SOCKET], quiet(each(fleet(), &|s, n| s.unit(19, n, FPM, "inactive")))),
        ),
        one(
            "a shared backend that is refused",
            "service_down",
            "group",
            group(&[REFUSED_FAR], quiet(fleet())),
        ),
        one(
            "an update that breaks workers everywhere",
            "crash",
            "group",
            group(
                &[RESET],
                quiet(each(fleet(), &|s, n| {
                    s.line(21, n, "php_fpm", SIGNAL_11).line(21, n, "kernel", SEGFAULT)
                })),
            ),
        ),
        one(
            "a shared mount that hangs",
            "overload",
            "group",
            group(&[EAGAIN], quiet(each(fleet(), &|s, n| s.line(19, n, "php_fpm", CHILDREN)))),
        ),
        one(
            "a flood at every server",
            "ddos",
            "group",
            group(
                &[EAGAIN, SLOW],
                with(&[
                    ("system.cpu.utilization", 0.95),
                    ("system.tcp.listen_overflows", 700.0),
                    ("system.conntrack.utilization", 0.9),
                ]),
            ),
        ),
        one(
            "names that the agents cannot resolve",
            "dns",
            "group",
            group(&[NONE_LEFT], quiet(each(fleet(), &|s, n| s.line(20, n, "probe", PROBE_NAME)))),
        ),
    ]
}
