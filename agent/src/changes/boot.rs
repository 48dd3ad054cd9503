//! Whether the kernel was booted since the agent ran last, and into which release.
//!
//! The kernel's boot id is random for each boot; the last one seen is kept in `boot.json` of the state
//! directory, so that a restart of the agent alone is no boot.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::clock;
use crate::window::Change;

/// A boot longer ago than this explains nothing any more, ms.
const RECENT_MS: i64 = 24 * 3_600_000;
/// /proc/stat names each interrupt before the time of boot.
const STAT_BYTES_MAX: u64 = 1 << 20;

/// The boot seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Boot {
    id: String,
    kernel: String,
}

/// The boot to tell; notes it in `state_dir`. The first run of all knows none to compare with.
pub(super) fn look(state_dir: &Path) -> Option<Change> {
    let now = Boot {
        id: id()?,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
    };
    let file = state_dir.join("boot.json");
    let bytes = fs::read(&file).unwrap_or_default();
    let before: Boot = serde_json::from_slice(&bytes).unwrap_or_default();
    if before == now {
        return None;
    }
    if let Err(error) = store(&file, &now) {
        tracing::warn!(path = %file.display(), %error, "cannot keep which boot was seen: it is told again");
    }
    told(&before, &now, booted_at(), clock::now())
}

/// Random for each boot; `None` where the kernel does not tell.
pub(crate) fn id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = text.trim();
    (!id.is_empty() && id.len() <= 64).then(|| id.to_owned())
}

fn told(before: &Boot, now: &Boot, at: Option<UnixMillis>, clock: UnixMillis) -> Option<Change> {
    let at = at.filter(|at| clock.0 - at.0 <= RECENT_MS)?;
    if before.id.is_empty() || before.id == now.id {
        return None;
    }
    let kernel = if before.kernel.is_empty() || before.kernel == now.kernel {
        now.kernel.clone()
    } else {
        format!("{} to {}", before.kernel, now.kernel)
    };
    let what = format!("machine booted, kernel {kernel}");
    // A clock that was set since may put it ahead.
    Some(Change::new("boot", what, at.min(clock)))
}

/// `btime` of /proc/stat.
fn booted_at() -> Option<UnixMillis> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open("/proc/stat").ok()?.take(STAT_BYTES_MAX).read_to_string(&mut text).ok()?;
    parse_boot_time(&text)
}

fn parse_boot_time(stat: &str) -> Option<UnixMillis> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok().filter(|second| *second > 0).map(UnixMillis::from_second)
}

/// No fsync: after a power cut the older state only tells the boot, which then happened.
fn store(path: &Path, boot: &Boot) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, serde_json::to_vec(boot)?)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_told_with_its_kernels_and_only_when_it_is_another_and_recent() {
        let boot = |id: &str, kernel: &str| Boot { id: id.into(), kernel: kernel.into() };
        let check = |before: Boot, now: Boot, at: Option<i64>, want: Option<&str>| {
            let clock = UnixMillis(200_000_000);
            let told = told(&before, &now, at.map(UnixMillis), clock);
            assert_eq!(told.map(|change| change.what).as_deref(), want, "{before:?}");
        };
        let recent = Some(199_000_000);
        let now = || boot("b", "6.1.0-21-amd64");
        check(
            boot("a", "6.1.0-18-amd64"),
            now(),
            recent,
            Some("machine booted, kernel 6.1.0-18-amd64 to 6.1.0-21-amd64"),
        );
        check(
            boot("a", "6.1.0-21-amd64"),
            now(),
            recent,
            Some("machine booted, kernel 6.1.0-21-amd64"),
        );
        check(boot("a", ""), now(), recent, Some("machine booted, kernel 6.1.0-21-amd64"));
        check(boot("b", "6.1.0-21-amd64"), now(), recent, None);
        check(boot("b", "of another day"), now(), recent, None);
        check(Boot::default(), now(), recent, None);
        check(boot("a", "6.1"), now(), Some(100_000_000), None);
        check(boot("a", "6.1"), now(), None, None);
    }

    #[test]
    fn the_boot_of_this_machine_is_told_once_after_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("boot.json");
        assert_eq!(look(dir.path()), None, "nothing to compare with");
        assert_eq!(look(dir.path()), None);
        fs::write(&file, r#"{"id":"another","kernel":"3.10.0-1160.el7.x86_64"}"#).unwrap();
        let at = booted_at().expect("linux tells");
        let told = look(dir.path());
        if clock::now().0 - at.0 < RECENT_MS {
            let told = told.expect("it is recent");
            assert!(told.what.starts_with("machine booted, kernel 3.10.0-1160.el7.x86_64 to "));
            assert_eq!((told.kind, told.at), ("boot", at));
        }
        assert_eq!(look(dir.path()), None, "once");
        fs::write(&file, "{\"id\":7").unwrap();
        assert_eq!(look(dir.path()), None, "a torn file is none");
    }

    #[test]
    fn the_time_of_boot_is_read_from_old_and_new_kernels() {
        let check = |stat: &str, want: Option<i64>| {
            assert_eq!(parse_boot_time(stat).map(UnixMillis::second), want, "{stat}");
        };
        check(
            "cpu  1 2 3\nintr 5 0 0\nctxt 7\nbtime 1795188232\nprocesses 9\n",
            Some(1_795_188_232),
        );
        check("btime  1795188232", Some(1_795_188_232));
        check("btime 0\n", None); // the clock was not set yet
        check("btime -5\n", None);
        check("btime x\n", None);
        check("", None);
    }
}
