//! Any lines as the logs of what stands behind a web server: PHP-FPM, kernel, syslog, journal,
//! databases, ModSecurity, package managers.

#![no_main]

use gatewatch_agent::discover::LogKind;
use libfuzzer_sys::fuzz_target;

#[path = "invariants.rs"]
mod invariants;

const FORMATS: [(&str, LogKind); 13] = [
    ("php_fpm", LogKind::PhpFpm),
    ("php_slow", LogKind::PhpSlow),
    ("mysql", LogKind::Mysql),
    ("redis", LogKind::Redis),
    ("modsecurity", LogKind::Modsecurity),
    ("syslog", LogKind::Syslog),
    ("journald", LogKind::Syslog),
    ("kernel", LogKind::Kernel),
    ("dpkg", LogKind::Change),
    ("apt_history", LogKind::Change),
    ("yum", LogKind::Change),
    ("zypper", LogKind::Change),
    ("pacman", LogKind::Change),
];

fuzz_target!(|input: &[u8]| {
    let names = FORMATS.map(|(name, _)| name);
    let Some((format, lines)) = invariants::choose(&names, input) else { return };
    let kind = FORMATS.iter().find(|(name, _)| *name == format).map(|(_, kind)| *kind);
    invariants::check_errors(kind.expect("it was chosen from these"), format, lines);
});
