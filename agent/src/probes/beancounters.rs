//! What OpenVZ refused a container: `failcnt` of /proc/user_beancounters.
//!
//! `uid  resource  held  maxheld  barrier  limit  failcnt`, the number of the container only before
//! the first resource. OpenVZ shows /proc/meminfo and /proc/stat of the container itself, so only
//! the refusals are missing there. Mostly root alone may read it.

use std::path::Path;

use super::Values;
use super::procfile::ProcFile;

/// Resources whose refusal makes a request fail.
const RESOURCES: [&str; 14] = [
    "kmemsize",
    "privvmpages",
    "physpages",
    "oomguarpages",
    "swappages",
    "numproc",
    "numfile",
    "numtcpsock",
    "numothersock",
    "tcpsndbuf",
    "tcprcvbuf",
    "othersockbuf",
    "dgramrcvbuf",
    "dcachesize",
];

/// The file, where there is one.
#[derive(Debug)]
pub(crate) struct Beancounters {
    file: Option<ProcFile>,
}

impl Beancounters {
    pub(crate) fn new(root: &Path) -> Self {
        let path = root.join("proc/user_beancounters");
        Self { file: path.exists().then(|| ProcFile::new(path)) }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        let text = self.file.as_mut().and_then(ProcFile::read);
        for (resource, n) in text.map(parse_failures).unwrap_or_default() {
            let attribute = format!("openvz.resource={resource}");
            out.push(("openvz.beancounter.failures", attribute, n as f64));
        }
    }
}

/// Refusals by resource; none on a machine that shows several containers, as it is not one of them.
fn parse_failures(text: &str) -> Vec<(&'static str, u64)> {
    let mut found = Vec::new();
    let mut n_containers = 0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().peekable();
        if words.next_if(|word| word.strip_suffix(':').is_some_and(is_number)).is_some() {
            n_containers += 1;
        }
        let Some(name) = words.next() else { continue };
        let resource = RESOURCES.iter().find(|known| **known == name);
        let failures = words.nth(4).and_then(|word| word.parse().ok());
        if let (Some(resource), Some(n)) = (resource, failures) {
            found.push((*resource, n));
        }
    }
    if n_containers == 1 { found } else { Vec::new() }
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "Version: 2.5
       uid  resource                     held              maxheld              barrier                limit              failcnt
      101:  kmemsize                 10543104             12697600  9223372036854775807  9223372036854775807                    0
            privvmpages                 98304               131072               131072               144179                   17
            dummy                           0                    0                    0                    0                    0
            numproc                        62                  120                  120                  120                    4
            numiptent                      20                   20                  200                  200                    9
";

    #[test]
    fn refusals_of_the_own_container_are_read() {
        let want = [("kmemsize", 0), ("privvmpages", 17), ("numproc", 4)];
        assert_eq!(parse_failures(CONTAINER), want);
        let node = format!("{CONTAINER}      102:  kmemsize 1 2 3 4 5\n");
        assert!(parse_failures(&node).is_empty(), "a machine with containers is none of them");
        for text in [
            "",
            "101:\n",
            "101: kmemsize 1 2 3\n",
            ": kmemsize 1 2 3 4 5\n",
            "9: numproc 1 2 3 4 x",
        ] {
            assert!(parse_failures(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_file_is_told_with_its_resources() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = Values::new();
        Beancounters::new(dir.path()).sample(&mut out);
        assert!(out.is_empty());
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("proc/user_beancounters"), CONTAINER).unwrap();
        Beancounters::new(dir.path()).sample(&mut out);
        let privvm =
            ("openvz.beancounter.failures", "openvz.resource=privvmpages".to_owned(), 17.0);
        assert!(out.contains(&privvm), "{out:?}");
    }
}
