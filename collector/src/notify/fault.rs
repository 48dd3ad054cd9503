//! What is wrong with a configuration, and what to do about it: kept apart, so that nobody has to guess
//! where in a sentence the one ends. No text of either holds a secret.

use std::fmt;

/// What is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Wrong {
    /// Both in words.
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }

    /// The same, of what is in `place`.
    #[must_use]
    pub fn in_place(self, place: impl fmt::Display) -> Self {
        Self { what: format!("{place}: {}", self.what), ..self }
    }

    /// The same, of a key.
    #[must_use]
    pub fn at(self, key: &str) -> Fault {
        Fault { key: key.to_owned(), what: self.what, fix: self.fix }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}

impl From<Wrong> for String {
    fn from(wrong: Wrong) -> Self {
        wrong.to_string()
    }
}

/// One thing that is wrong with a table of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which key of it.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.key, self.what, self.fix)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::config::NotifyConfig;
    use crate::notify::{kinds, unforeseen};

    const MAIL: &str =
        "kind = 'email'\nurl = 'smtp://m:25'\nfrom = 'a@b.example'\nto = ['a@b.example']";

    /// Tables that each have something wrong. `DIR/` holds the files.
    const TABLES: &[&str] = &[
        "",
        "kind = 'slak'",
        "kind = 'webhook'",
        "kind = 'alertmanager'",
        "kind = 'email'",
        "kind = 'slack'",
        "kind = 'teams'",
        "kind = 'discord'",
        "kind = 'telegram'",
        "kind = 'ntfy'",
        "kind = 'pagerduty'",
        "kind = 'opsgenie'",
        "kind = 'pagerduty'\nsecret_file = 'DIR/key'\ndigest = ['08:00']",
        "kind = 'pagerduty'\nsecret_file = 'DIR/key'\nto = ['x@y.example']",
        "kind = 'pagerduty'\nsecret_file = 'DIR/lines'",
        "kind = 'pagerduty'\nsecret_file = 'DIR/open'",
        "kind = 'pagerduty'\nsecret_file = 'DIR/empty'",
        "kind = 'pagerduty'\nsecret_file = 'DIR/none'",
        "kind = 'webhook'\nurl = 'https://x'\nsecret_file = 'DIR/short'",
        "kind = 'telegram'\nsecret_file = 'DIR/key'\nchat_id = 'us'",
        "kind = 'ntfy'\ntopic = 'a b'",
        "SLACK\nurl_file = 'DIR/key'",
        "kind = 'slack'\nurl_file = 'DIR/key'",
        "kind = 'slack'\nurl_file = 'DIR/none'",
        "kind = 'slack'\nurl = 'x'",
        "kind = 'slack'\nurl = 'ftp://x'",
        "kind = 'slack'\nurl = 'https://ann:pw@x'",
        "SLACK\nca_file = 'DIR/none'",
        "SLACK\nca_file = 'DIR/key'",
        "SLACK\nca_file = 'DIR/ca'",
        "SLACK\ntemplate_file = 'DIR/none'",
        "SLACK\ntemplate_file = 'DIR/template'",
        "SLACK\ntemplate_file = 'DIR/syntax'",
        "SLACK\nmin_severity = 'loud'",
        "SLACK\nname = 'a/b'",
        "SLACK\ntimezone = 'Mars/Base'",
        "SLACK\nhours = ['always']",
        "SLACK\ndigest = ['now']",
        "SLACK\nescalate_after = '0s'",
        "SLACK\nescalate_after = '1m'\ndigest = ['08:00']",
        "SLACK\nmessages_per_minute_max = 0",
        "SLACK\nmatch.rack = ''",
        "SLACK\nmatch.rack = '['",
        "SLACK\nmatch.scope = 'rack'",
        "SLACK\nmatch.'a b' = 'x'",
        "SLACK\nmatch.kind = 'slow_burn'",
        "SLACK\nmatch.kind = 'slow_burn'\nmatch.severity = 'critical'",
        "kind = 'alertmanager'\nurl = 'http://x'\nrepeat_interval = '0s'",
        "MAIL\ntls = 'ssl'",
        "MAIL\nuser = 'ann'",
        "MAIL\nsecret_file = 'DIR/key'",
        "MAIL\nuser = 'ann'\nsecret_file = 'DIR/key'\ntls = 'none'",
        "MAIL\nca_file = 'DIR/ca'",
        "MAIL\ntemplate_file = 'DIR/none'",
        "MAIL\ntemplate_file = 'DIR/template'",
        "MAIL\nhtml_template_file = 'DIR/template'",
        "MAIL\nhtml_template_file = 'DIR/syntax'",
        "kind = 'email'\nurl = 'smtp://m/x'\nfrom = 'nobody'\nto = ['a b']",
        "kind = 'email'\nurl = 'https://m'\nfrom = 'a@b.example'\nto = ['a@b.example']",
    ];

    #[test]
    fn every_fault_comes_with_a_fix_that_is_not_the_fault() {
        let dir = tempfile::tempdir().unwrap();
        let not_a_ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, text, mode) in [
            ("key", "0123456789abcdef", 0o600),
            ("lines", "0123456789abcdef\nmore", 0o600),
            ("open", "0123456789abcdef", 0o644),
            ("empty", "\n", 0o600),
            ("short", "short", 0o600),
            ("ca", not_a_ca, 0o644),
            ("template", "{{ typo }}", 0o644),
            ("syntax", "{% if %}", 0o644),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        for table in TABLES {
            let text = table
                .replace("DIR", &dir.path().display().to_string())
                .replace("SLACK", "kind = 'slack'\nurl = 'https://x.example/y'")
                .replace("MAIL", MAIL);
            let config: NotifyConfig = toml::from_str(&text).unwrap();
            let faults = crate::notify::faults(std::slice::from_ref(&config));
            assert!(!faults.is_empty(), "{table}");
            for (_, fault) in &faults {
                assert!(!fault.fix.trim().is_empty() && !fault.what.is_empty(), "{fault}");
                assert!(!fault.what.contains(&fault.fix), "{table}: {fault}");
                assert!(!fault.fix.contains(&fault.what), "{table}: {fault}");
            }
            // Whatever a route refuses, the table of kinds has told in better words.
            if kinds::check(&config).is_empty() {
                assert_eq!(unforeseen(&config, 0), [], "{table}");
            }
        }
    }

    #[test]
    fn two_routes_of_one_name_are_told_with_a_fix() {
        let config: NotifyConfig =
            toml::from_str("kind = 'slack'\nname = 'a'\nurl = 'https://x.example/y'").unwrap();
        let faults = crate::notify::faults(&[config.clone(), config]);
        assert_eq!(faults.len(), 1);
        assert_eq!((faults[0].0, &*faults[0].1.fix), (1, "give every route its own"));
    }
}
