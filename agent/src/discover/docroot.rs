//! What lies in a document root: who owns it, and which application runs there. Reads the beginning
//! of a file or two and changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::discover::files::Files;

/// Beginning of a file that holds a version.
const VERSION_BYTES_MAX: u64 = 16 << 10;

/// The file that holds the version, the text before it, and what ends it.
type Version = (&'static str, &'static str, &'static str);
/// Name, the file that only it has, and where its version stands.
type Application = (&'static str, &'static str, Option<Version>);

/// An application by a file that only it has, in the document root or above it. The file that holds
/// the version may be another one.
const APPLICATIONS: [Application; 14] = [
    (
        "WordPress",
        "wp-includes/version.php",
        Some(("wp-includes/version.php", "$wp_version = '", "'")),
    ),
    ("WordPress", "wp-config.php", None),
    (
        "Joomla",
        "administrator/manifests/files/joomla.xml",
        Some(("administrator/manifests/files/joomla.xml", "<version>", "<")),
    ),
    ("Drupal", "core/lib/Drupal.php", Some(("core/lib/Drupal.php", "const VERSION = '", "'"))),
    (
        "Drupal",
        "includes/bootstrap.inc",
        Some(("includes/bootstrap.inc", "define('VERSION', '", "'")),
    ),
    ("Magento", "../bin/magento", Some(("../composer.json", "\"version\": \"", "\""))),
    ("Magento", "bin/magento", Some(("composer.json", "\"version\": \"", "\""))),
    ("PrestaShop", "app/AppKernel.php", Some(("app/AppKernel.php", "const VERSION = '", "'"))),
    (
        "PrestaShop",
        "config/settings.inc.php",
        Some(("config/settings.inc.php", "'_PS_VERSION_', '", "'")),
    ),
    ("TYPO3", "typo3conf", None),
    ("Nextcloud", "lib/versioncheck.php", Some(("version.php", "$OC_VersionString = '", "'"))),
    (
        "Laravel",
        "../artisan",
        Some((
            "../vendor/laravel/framework/src/Illuminate/Foundation/Application.php",
            "const VERSION = '",
            "'",
        )),
    ),
    (
        "Symfony",
        "../bin/console",
        Some(("../vendor/symfony/http-kernel/Kernel.php", "const VERSION = '", "'")),
    ),
    ("MediaWiki", "includes/Defines.php", Some(("includes/Defines.php", "'MW_VERSION', '", "'"))),
];

/// The name of the Unix user a folder belongs to.
pub(super) fn owner(files: &mut Files, docroot: &Path) -> Option<String> {
    let uid = fs::metadata(docroot).ok()?.uid();
    files.user(uid)
}

/// What runs in a document root, with its version where a file tells: `WordPress 6.4.2`. The file is
/// watched: an update is news, and so is a new application.
pub(super) fn application(files: &mut Files, docroot: &Path) -> Option<String> {
    if !files.exists(docroot) {
        return None;
    }
    for (name, mark, version) in APPLICATIONS {
        if fs::symlink_metadata(docroot.join(mark)).is_err() {
            continue;
        }
        let Some((file, before, end)) = version else { return Some(name.to_owned()) };
        let path = plain(&docroot.join(file));
        files.watch(&path);
        let text = files.peek(&path, VERSION_BYTES_MAX).unwrap_or_default();
        // A file of the same name in something else says nothing.
        if name == "PrestaShop" && file == "app/AppKernel.php" && !text.contains("PrestaShop") {
            continue;
        }
        return Some(match version_in(&text, before, end) {
            Some(version) => format!("{name} {version}"),
            None => name.to_owned(),
        });
    }
    None
}

/// A path without `..`, so that the same file is watched once.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// A version behind a text, if it looks like one: what stands in a docroot is anybody's.
fn version_in(text: &str, before: &str, end: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    let version = rest.split(end).next()?.trim();
    let sign = |c: char| c.is_ascii_alphanumeric() || ".-+_".contains(c);
    let is_version = (1..=32).contains(&version.len())
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(sign);
    is_version.then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_taken_only_where_it_looks_like_one() {
        let before = "$wp_version = '";
        for (text, version) in [
            ("<?php\n$wp_version = '6.4.2';\n", Some("6.4.2")),
            ("$wp_version = '6.5-RC1-57894';", Some("6.5-RC1-57894")),
            ("$wp_version = 'six';", None),
            ("$wp_version = '6 <script>';", None),
            ("$wp_version = '66666666666666666666666666666666666';", None),
            ("$wp_version = '6", Some("6")),
            ("", None),
        ] {
            assert_eq!(version_in(text, before, "'").as_deref(), version, "{text}");
        }
    }
}
