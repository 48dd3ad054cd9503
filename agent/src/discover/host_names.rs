//! The hosts that a vhost takes: exact names, and all names below or above one.

/// Names of one vhost in lower case. Regular expressions and a lone `*` are left out: a vhost that
/// has nothing else takes any host.
#[derive(Debug, Default)]
pub(super) struct HostNames {
    /// One host each, sorted.
    pub(super) exact: Vec<String>,
    /// `.a.example` of `*.a.example`.
    pub(super) suffixes: Vec<String>,
    /// `www.a.` of `www.a.*`.
    prefixes: Vec<String>,
}

impl HostNames {
    pub(super) fn new(names: &[String]) -> Self {
        let mut own = Self::default();
        for name in names {
            let name = name.to_lowercase();
            if let Some(above) = name.strip_prefix('.').filter(|above| is_exact(above)) {
                own.exact.push(above.to_owned());
                own.suffixes.push(name);
            } else if is_exact(&name) {
                own.exact.push(name);
            } else if let Some(suffix) = name.strip_prefix('*').filter(|rest| is_part(rest)) {
                own.suffixes.push(suffix.to_owned());
            } else if let Some(prefix) = name.strip_suffix('*').filter(|rest| is_part(rest)) {
                own.prefixes.push(prefix.to_owned());
            }
        }
        for list in [&mut own.exact, &mut own.suffixes, &mut own.prefixes] {
            list.sort_unstable();
            list.dedup();
        }
        own
    }

    /// No name tells which hosts it takes.
    pub(super) fn is_any(&self) -> bool {
        self.exact.is_empty() && !self.has_wildcards()
    }

    pub(super) fn has_wildcards(&self) -> bool {
        !self.suffixes.is_empty() || !self.prefixes.is_empty()
    }

    /// True for a host that one of the names fits.
    pub(super) fn takes(&self, host: &str) -> bool {
        self.exact.binary_search_by(|name| name.as_str().cmp(host)).is_ok()
            || self.takes_by_wildcard(host)
    }

    pub(super) fn takes_by_wildcard(&self, host: &str) -> bool {
        self.suffixes.iter().any(|suffix| host.ends_with(suffix.as_str()))
            || self.prefixes.iter().any(|prefix| host.starts_with(prefix.as_str()))
    }

    /// True when a request for a host of one may be for a host of the other.
    pub(super) fn share(&self, other: &Self) -> bool {
        let overlap = |a: &Self, b: &Self| {
            a.exact.iter().any(|name| b.takes(name))
                || a.suffixes.iter().any(|suffix| b.takes_by_wildcard(suffix))
                || a.prefixes.iter().any(|prefix| b.takes_by_wildcard(prefix))
        };
        self.is_any() || other.is_any() || overlap(self, other) || overlap(other, self)
    }
}

/// The ends of a host that a wildcard may stand before, the longest first: `.a.example`, `.example`.
pub(super) fn suffixes_of(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(at, _)| &host[at..])
}

/// True for a name that is one host.
fn is_exact(name: &str) -> bool {
    !matches!(name, "" | "_" | "-" | "\"\"") && is_part(name) && !name.starts_with('.')
}

/// True for text that stands for itself.
fn is_part(text: &str) -> bool {
    !text.is_empty() && !text.contains(['*', '~', '$'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_kind_take_their_hosts() {
        for (front, behind, share) in [
            ("a.example", "a.example", true),
            ("a.example", "b.example", false),
            ("*.w.example", "shop.w.example", true),
            ("*.w.example", "w.example", false),
            (".w.example", "w.example", true),
            ("w.example *.w.example", "a.b.w.example", true),
            ("shop.w.example", "*.w.example", true),
            ("*.w.example", "*.shop.w.example", true),
            ("www.w.*", "www.w.example", true),
            ("www.w.*", "w.example", false),
            ("_", "a.example", true),
            ("~^a$", "b.example", true),
            ("*", "b.example", true),
            ("a.example *", "b.example", false),
        ] {
            let names = |text: &str| {
                let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
                HostNames::new(&words)
            };
            assert_eq!(names(front).share(&names(behind)), share, "{front} > {behind}");
            assert_eq!(names(behind).share(&names(front)), share, "{behind} > {front}");
        }
    }
}
