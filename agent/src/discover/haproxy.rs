//! HAProxy configuration in first form: whether it stands in front of another server here, and
//! whether its log names the host.

use std::path::Path;

use crate::discover::assemble::Found;
use crate::discover::files::Files;

/// Where its log usually ends up: it only speaks to syslog.
const LOG: &str = "/var/log/haproxy.log";

/// Notes HAProxy's targets and its log.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let path = files.below("/etc/haproxy/haproxy.cfg");
    let Some(text) = files.read_optional(&path) else { return };
    found.services.insert("haproxy.service".to_owned());
    let mut names_host = false;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("server"), Some(_), Some(address)) => {
                found.haproxy_targets.push(address.to_owned());
            }
            (Some("capture"), Some("request"), Some("header")) => {
                names_host |=
                    words.next().is_some_and(|header| header.eq_ignore_ascii_case("host"));
            }
            (Some("http-request"), Some("capture"), Some(what)) => {
                names_host |= what.to_ascii_lowercase().contains("hdr(host)");
            }
            (Some("log-format"), Some(_), _) => {
                names_host |= line.to_ascii_lowercase().contains("hdr(host)");
            }
            _ => {}
        }
    }
    found.haproxy_log = Some((files.resolve(Path::new(LOG)), names_host));
}
