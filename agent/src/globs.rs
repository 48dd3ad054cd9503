//! What matches a pattern of paths, as the package `glob` finds it, but for hidden names.
//!
//! A wildcard matches no leading dot. The package can see to that as well, but then it panics at a
//! name that is no UTF-8, so that whoever may write into a folder could end the agent. Names that are
//! no UTF-8 match no wildcard.

use std::path::{Component, Path, PathBuf};

use glob::{GlobError, MatchOptions, Pattern, PatternError};

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// What matches, sorted folder by folder; an error for each folder that cannot be listed.
pub fn matches(
    pattern: &str,
) -> Result<impl Iterator<Item = Result<PathBuf, GlobError>> + use<>, PatternError> {
    let hidden = pattern.split('/').filter(|part| part.starts_with('.'));
    let hidden: Vec<Pattern> = hidden.filter_map(|part| Pattern::new(part).ok()).collect();
    let is_asked_for = move |path: &Path| {
        path.components().all(|part| {
            let Component::Normal(name) = part else { return true };
            let name = name.to_string_lossy();
            !name.starts_with('.') || hidden.iter().any(|its| its.matches(&name))
        })
    };
    let found = glob::glob_with(pattern, OPTIONS)?;
    Ok(found.filter(move |found| match found {
        Ok(path) => is_asked_for(path),
        Err(error) => is_asked_for(error.path()),
    }))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn hidden_names_are_matched_only_by_a_dot_and_names_that_are_no_utf8_end_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/.old")).unwrap();
        fs::create_dir_all(dir.path().join(".b")).unwrap();
        fs::create_dir(dir.path().join(OsStr::from_bytes(b"m\xfcller"))).unwrap();
        for name in
            [b"a/x.log".as_slice(), b"a/.y.log", b"a/\xff.log", b"a/.old/z.log", b".b/x.log"]
        {
            fs::write(dir.path().join(OsStr::from_bytes(name)), b"").unwrap();
        }
        let check = |pattern: &str, want: &[&str]| {
            let pattern = format!("{}/{pattern}", dir.path().display());
            let found = matches(&pattern).unwrap().map(|path| path.unwrap());
            let found: Vec<_> =
                found.map(|path| path.strip_prefix(dir.path()).unwrap().to_owned()).collect();
            let want: Vec<_> = want.iter().map(PathBuf::from).collect();
            assert_eq!(found, want, "{pattern}");
        };
        check("*/*.log", &["a/x.log"]);
        check("*/.*.log", &["a/.y.log"]);
        check(".b/*", &[".b/x.log"]);
        check("**/*.log", &["a/x.log"]);
        check("*/.old/*.log", &["a/.old/z.log"]);
        check("a/[xy].log", &["a/x.log"]);
        assert!(matches("a***").is_err());
    }
}
