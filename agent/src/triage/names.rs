//! What the path of a log says of its site. Pure.

use std::path::Path;

use crate::logs::sites::name_from_path;

const PACKED: [&str; 5] = [".gz", ".zst", ".bz2", ".xz", ".Z"];
/// What stands between the name of a site and `.log` in the name of its error log.
const ERROR_ENDINGS: [&str; 8] =
    [".error", "-error", "_error", ".error_log", "-error_log", "_error_log", ".err", "-errors"];
/// Names of logs that are no site's own.
const OF_A_SERVER: [&str; 8] =
    ["", "error", "errors", "error_log", "nginx", "apache", "apache2", "httpd"];

/// The site of an access log whose lines name no host.
pub(super) fn site_of_access_log(path: &Path) -> String {
    if path == Path::new("-") {
        return "stdin".to_owned();
    }
    name_from_path(&path.with_file_name(unrotated(path)))
}

/// The site of an error log whose lines name no host; `None` when it is a whole server's.
pub(super) fn site_of_error_log(path: &Path) -> Option<String> {
    let name = unrotated(path);
    let stem = name.strip_suffix(".log").unwrap_or(&name);
    let site = ERROR_ENDINGS.iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
    if OF_A_SERVER.contains(&site) || path == Path::new("-") {
        // `/srv/a.example/logs/error.log`
        let site = name_from_path(&path.with_file_name("access.log"));
        return Some(site).filter(|site| site.contains('.'));
    }
    Some(name_from_path(&path.with_file_name(format!("{site}.log"))))
}

/// The file name in lower case without what rotation and compression put behind it.
fn unrotated(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut name = name.as_str();
    while let Some(shorter) = PACKED.iter().find_map(|end| name.strip_suffix(end)) {
        name = shorter;
    }
    name = without_mark(name);
    match name.strip_suffix(".log") {
        // `access-20261120.log`
        Some(stem) => format!("{}.log", without_mark(stem)),
        None => name.to_owned(),
    }
}

/// Takes `.1`, `-20261120`, `-20261120-1795176000` and `.old` off.
fn without_mark(name: &str) -> &str {
    let mut rest = name;
    while let Some(at) = rest.rfind(['.', '-', '_']).filter(|at| *at > 0) {
        let mark = &rest[at + 1..];
        let digits = mark.bytes().all(|b| b.is_ascii_digit());
        // A short number behind a dash may be part of a name.
        let is_number =
            digits && (mark.len() >= 6 || !mark.is_empty() && rest.as_bytes()[at] == b'.');
        if !is_number && !matches!(mark, "old" | "bak" | "prev") {
            break;
        }
        rest = &rest[..at];
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_and_packed_logs_belong_to_the_site_of_their_log() {
        for (path, want) in [
            ("/var/log/nginx/a.example.access.log", "a.example"),
            ("/var/log/nginx/a.example.access.log.1", "a.example"),
            ("/var/log/nginx/a.example.access.log.14.gz", "a.example"),
            ("/var/log/nginx/a.example.log-20261120.zst", "a.example"),
            ("/var/log/nginx/a.example.access-20261120.log", "a.example"),
            ("/var/log/nginx/shop-2.access.log", "shop-2"),
            ("/srv/a.example/logs/access.log.2.gz", "a.example"),
            ("access.log.old", "access"),
            ("-", "stdin"),
            ("..", ""),
        ] {
            assert_eq!(site_of_access_log(Path::new(path)), want, "{path}");
        }
    }

    #[test]
    fn error_logs_of_a_server_have_no_site() {
        for (path, want) in [
            ("/var/log/nginx/error.log", None),
            ("/var/log/nginx/error.log.1.gz", None),
            ("/var/log/apache2/error_log", None),
            ("/var/log/nginx/a.example.error.log", Some("a.example")),
            ("/var/log/httpd/a.example-error_log.2.gz", Some("a.example")),
            ("/var/log/nginx/shop_error.log", Some("shop")),
            ("/srv/a.example/logs/error.log", Some("a.example")),
            ("-", None),
        ] {
            assert_eq!(site_of_error_log(Path::new(path)).as_deref(), want, "{path}");
        }
    }
}
