//! `deploy/install.sh` in a throw-away root without systemd: install, repeat, fail, take back.
//!
//! As root the script runs in a chroot of its own mount namespace: `/usr` of this machine read-only,
//! everything else new, so it makes its user, owners and paths for real. As another user it stages
//! below `--root` instead.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Fleet, Output, Root, copy_program, find_program, is_root, program};

/// Mounts the throw-away root `$1` in this mount namespace, then runs the rest of the arguments in it.
const ENTER: &str = r#"
set -e
root=$1; shift
mount --bind /usr "$root/usr"
mount -o remount,bind,ro "$root/usr"
mount --bind "$root/local" "$root/usr/local"
for dir in bin sbin lib lib32 lib64; do
    if [ -d "/$dir" ] && ! [ -L "/$dir" ]; then mkdir -p "$root/$dir"; mount --bind "/$dir" "$root/$dir"; fi
done
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
"#;

/// A machine that has never seen gatewatch.
struct Machine {
    root: Root,
    chroot: bool,
}

impl Machine {
    fn new(chroot: bool) -> Self {
        let root = Root::new();
        for dir in ["usr", "local", "proc", "dev", "tmp", "run", "var/lib", "root"] {
            root.mkdir(dir);
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                symlink(target, root.join(name)).expect("the root is new");
            }
        }
        root.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        root.write("etc/group", "root:x:0:\nadm:x:4:\n");
        root.write("etc/shadow", "root:*:1::::::\n");
        root.write("etc/gshadow", "root:*::\nadm:*::\n");
        root.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
        root.write("etc/hosts", "127.0.0.1 localhost\n");
        root.write(
            "etc/nginx/nginx.conf",
            "http { server { server_name one.test; access_log /var/log/nginx/one.log combined; } }\n",
        );
        root.write("var/log/nginx/one.log", "");
        fs::copy(script(), root.join("install.sh")).expect("the root is writable");
        copy_program(&program("gatewatch-agent"), &root.join("agent"));
        Self { root, chroot }
    }

    /// Runs the installer to its end.
    fn install(&self, words: &[&str]) -> Output {
        let mut command;
        if self.chroot {
            command = Command::new(find_program(&["unshare"], "util-linux"));
            command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "enter"]);
            command.arg(self.root.path()).args(["sh", "/install.sh"]).args(words);
        } else {
            command = Command::new("sh");
            command.arg(script()).args(words).arg("--root").arg(self.root.path());
        }
        // So that the first batch need not wait for its time.
        command.env("GATEWATCH_COLLECTOR_BATCH_INTERVAL", "1s").env_remove("GATEWATCH_TOKEN");
        Output::of(&mut command)
    }

    /// Where the agent's program is given to the installer.
    fn agent(&self) -> String {
        let path = self.root.join("agent");
        if self.chroot { "/agent".to_owned() } else { path.display().to_string() }
    }

    /// `relative` below the root, as this process sees it.
    fn path(&self, relative: &str) -> PathBuf {
        match relative.strip_prefix("usr/local/") {
            Some(rest) if self.chroot => self.root.join("local").join(rest),
            _ => self.root.join(relative),
        }
    }

    /// Permission bits.
    fn mode(&self, relative: &str) -> u32 {
        let path = self.path(relative);
        let metadata = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        metadata.permissions().mode() & 0o7777
    }

    /// User id of the owner.
    fn uid(&self, relative: &str) -> u32 {
        let path = self.path(relative);
        fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).uid()
    }

    /// Every file the installer is about: path to inode, mode and modification time.
    fn snapshot(&self) -> BTreeMap<PathBuf, (u64, u32, i64, i64)> {
        let mut found = BTreeMap::new();
        for relative in [BINARY, CONFIG, UNIT, IDENTITY, "etc/passwd", "etc/group"] {
            let path = self.path(relative);
            if let Ok(m) = fs::metadata(&path) {
                found.insert(path, (m.ino(), m.mode(), m.mtime(), m.mtime_nsec()));
            }
        }
        found
    }

    /// User id of the agent's user in the root's own `/etc/passwd`.
    fn agent_uid(&self) -> Option<u32> {
        let passwd = fs::read_to_string(self.root.join("etc/passwd")).expect("it was written");
        let line = passwd.lines().find(|line| line.starts_with("gatewatch-agent:"))?;
        line.split(':').nth(2)?.parse().ok()
    }
}

const BINARY: &str = "usr/local/bin/gatewatch-agent";
const CONFIG: &str = "etc/gatewatch/agent.toml";
const UNIT: &str = "etc/systemd/system/gatewatch-agent.service";
const STATE: &str = "var/lib/gatewatch-agent";
const IDENTITY: &str = "var/lib/gatewatch-agent/identity.json";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in it").to_owned()
}

fn script() -> PathBuf {
    repository().join("deploy/install.sh")
}

/// Fails with everything the run said unless it ended with `code` and said every one of `words`.
fn check(run: &Output, code: i32, words: &[&str]) {
    assert_eq!(run.code, code, "{}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "not said: {word:?}\n{}", run.stderr);
    }
    assert_eq!(run.stdout, "", "stdout is data, and there is none");
}

#[test]
fn the_installer_is_clean_posix_shell_and_carries_the_unit_it_installs() {
    for (names, package, words) in [
        (&["sh"][..], "dash", &["-n"][..]),
        (&["dash"], "dash", &["-n"]),
        (&["shellcheck"], "shellcheck", &["--shell=sh"]),
    ] {
        let mut command = Command::new(find_program(names, package));
        let done = Output::of(command.args(words).arg(script()));
        assert_eq!(done.code, 0, "{names:?}: {}{}", done.stdout, done.stderr);
    }
    let text = fs::read_to_string(script()).unwrap();
    let (_, rest) = text.split_once("<<'UNIT'\n").expect("the unit is in the script");
    let (unit, _) = rest.split_once("UNIT\n").expect("and ends");
    let file = repository().join("deploy/systemd/gatewatch-agent.service");
    assert_eq!(unit, fs::read_to_string(file).unwrap(), "deploy/systemd and install.sh differ");
}

#[test]
fn an_old_systemd_gets_the_unit_without_groups_of_system_calls_that_it_does_not_know() {
    let fleet = Fleet::builder().start();
    for (version, has_filter) in [
        ("systemd 219\n+PAM +AUDIT", false),
        ("systemd 238", false),
        ("systemd 239 (239-82.el8)", true),
        ("systemd 252 (252.39-1~deb12u1)\n+PAM", true),
        ("no version", true),
    ] {
        let machine = Machine::new(is_root());
        let name = version.split_whitespace().nth(1).unwrap_or("none");
        machine.root.write("etc/gatewatch/agent.toml", &format!("[host]\nname = \"{name}\"\n"));
        let (token, hash) = fleet.token(&BTreeMap::new());
        let (address, agent) = (fleet.address().to_string(), machine.agent());
        let text = machine.root.write(
            "local/systemctl",
            &format!("#!/bin/sh\n[ \"$*\" = --version ] && printf '{version}\\n'\n"),
        );
        machine.root.mkdir("local/bin");
        copy_program(&text, &machine.root.join("local/bin/systemctl"));
        let mut words = vec!["--collector", &address, "--ca-hash", &hash, "--token", &token];
        words.extend(["--binary", &agent, "--no-start"]);
        let first = machine.install(&words);
        check(&first, 0, &["installed"]);
        // What is staged as another user may be for another machine.
        let is_whole = has_filter || !machine.chroot;
        assert_eq!(first.stderr.contains("without a filter"), !is_whole, "{}", first.stderr);
        let unit = fs::read_to_string(machine.path(UNIT)).expect("it was installed");
        let n = |word: &str| unit.lines().filter(|line| line.starts_with(word)).count();
        assert_eq!(n("SystemCallFilter="), if is_whole { 2 } else { 0 }, "{version}");
        assert_eq!(n("SystemCallErrorNumber="), usize::from(is_whole), "{version}");
        assert_eq!((n("SystemCallArchitectures="), n("WantedBy=")), (1, 1), "{version}");
        check(&machine.install(&words), 0, &["everything was in place already"]);
    }
}

#[test]
fn a_server_is_installed_by_one_command_and_taken_back_by_another() {
    install_repeat_and_take_back(&Machine::new(is_root()));
}

#[test]
fn an_installation_is_staged_below_a_root_without_touching_this_machine() {
    install_repeat_and_take_back(&Machine::new(false));
}

fn install_repeat_and_take_back(machine: &Machine) {
    let fleet = Fleet::builder().start();
    let (token, hash) = fleet.token(&BTreeMap::new());
    let address = fleet.address().to_string();
    let agent = machine.agent();
    let mut words = vec!["--collector", &address, "--ca-hash", &hash, "--binary", &agent];
    words.extend(["--token", &token, "--label", "rack=r 1", "--run-check"]);

    let first = machine.install(&words);
    check(&first, 0, &["confirmed the first data", "discovered 1 sites", "the agent is stopped"]);
    for (path, mode) in [(BINARY, 0o755), (CONFIG, 0o644), (UNIT, 0o644), (STATE, 0o700)] {
        assert_eq!(machine.mode(path), mode, "mode of {path}");
    }
    assert_eq!(machine.mode(IDENTITY), 0o600);
    if machine.chroot {
        let uid = machine.agent_uid().expect("the user was made");
        assert_ne!(uid, 0);
        let group = fs::read_to_string(machine.path("etc/group")).expect("it has groups");
        assert!(group.contains("adm:x:4:gatewatch-agent"), "{group}");
        for (path, owner) in [(STATE, uid), (IDENTITY, uid), (BINARY, 0), (CONFIG, 0), (UNIT, 0)] {
            assert_eq!(machine.uid(path), owner, "owner of {path}");
        }
    }
    let listed = fleet.cli(&["agent", "list", "--json"]).good().expect("the fleet can be listed");
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.contains("r 1"), "the label arrived: {listed}");

    // The admin's own settings, and a second run with a token that is used up.
    let config = machine.path(CONFIG);
    let own = fs::read_to_string(&config).expect("it was written") + "\n# mine\n";
    fs::write(&config, &own).expect("it can be written");
    let before = machine.snapshot();
    let second = machine.install(&words);
    check(&second, 0, &["everything was in place already"]);
    assert_eq!(machine.snapshot(), before, "the second run changed something");
    assert_eq!(fs::read_to_string(&config).expect("it was written"), own);

    let removed = machine.install(&["--uninstall"]);
    check(&removed, 0, &["removed", "kept:", "agent.toml"]);
    for path in [BINARY, UNIT] {
        assert!(!machine.path(path).exists(), "{path} is still there");
    }
    assert!(machine.path(IDENTITY).exists() && config.exists());

    // With what was kept, the same command brings the server back without a new token.
    check(&machine.install(&words), 0, &["confirmed the first data"]);
    check(&machine.install(&["--uninstall", "--purge"]), 0, &["removed"]);
    for path in [BINARY, UNIT, CONFIG, STATE, "etc/gatewatch"] {
        assert!(!machine.path(path).exists(), "{path} is still there");
    }
    assert_eq!(machine.agent_uid(), None);
    check(&machine.install(&["--uninstall"]), 0, &["there was nothing to remove"]);
}

#[test]
fn a_refused_enrolment_says_why_and_what_is_done_so_far() {
    let fleet = Fleet::builder().start();
    let machine = Machine::new(is_root());
    let (token, hash) = fleet.token(&BTreeMap::new());
    let address = fleet.address().to_string();
    let agent = machine.agent();
    let with = |token: &str, hash: &str, address: &str| {
        let mut words = vec!["--collector", address, "--ca-hash", hash, "--token", token];
        words.extend(["--binary", &agent, "--run-check"]);
        machine.install(&words)
    };
    let wrong = with("0123456789.abcdefghijklmnopqrstuvwxyz", &hash, &address);
    check(
        &wrong,
        1,
        &["token", "token create", "stopped at: enrolling", "run the same command again"],
    );
    assert!(!wrong.stderr.contains("abcdefghijklmnop"), "the token is not repeated");

    let other = format!("sha256:{}", "0".repeat(64));
    check(&with(&token, &other, &address), 1, &["hash", "copy the command again"]);
    check(&with(&token, &hash, "127.0.0.1:1"), 1, &["127.0.0.1:1", "could not be enrolled"]);
    assert!(!machine.path(IDENTITY).exists());

    // Nothing stands in the way of doing it right.
    check(&with(&token, &hash, &address), 0, &["confirmed the first data"]);
}

#[test]
fn the_agent_is_downloaded_only_from_the_collector_that_the_command_names() {
    let fleet = Fleet::builder().start();
    let machine = Machine::new(is_root());
    let (token, hash) = fleet.token(&BTreeMap::new());
    let address = fleet.address().to_string();
    let words = ["--collector", &address, "--ca-hash", &hash, "--token", &token, "--no-start"];

    check(&machine.install(&words), 1, &["cannot download", "--binary FILE"]);
    let dl = fleet.data_dir().join("dl");
    fs::create_dir_all(&dl).unwrap();
    let name = format!("gatewatch-agent-{}", std::env::consts::ARCH);
    fs::write(dl.join(&name), "#!/no/such/interpreter\n").unwrap();
    check(&machine.install(&words), 1, &["does not run here"]);
    assert!(!machine.path(BINARY).exists(), "a program that does not run is not installed");

    fs::copy(program("gatewatch-agent"), dl.join(&name)).unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    let foreign = ["--collector", &address, "--ca-hash", &other, "--token", &token, "--no-start"];
    check(&machine.install(&foreign), 1, &["is not the one of --ca-hash", &hash]);
    assert!(!machine.path(BINARY).exists());

    check(&machine.install(&words), 0, &["installed", "not started, as asked"]);
    let installed = fs::read(machine.path(BINARY)).unwrap();
    assert_eq!(installed.len() as u64, fs::metadata(program("gatewatch-agent")).unwrap().len());
    let left: Vec<_> = fs::read_dir(machine.path("usr/local/bin")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "nothing temporary stays: {left:?}");
}

#[test]
fn a_wrong_command_line_changes_nothing_and_names_the_mistake() {
    let machine = Machine::new(is_root());
    let agent = machine.agent();
    let hash = format!("sha256:{}", "a".repeat(64));
    let good = ["--collector", "c.example:8502", "--token", "t", "--ca-hash", &hash];
    let cases: [(&[&str], i32, &str); 9] = [
        (&[], 2, "--collector HOST:PORT is missing"),
        (&["--collector", "c.example"], 2, "the port is missing"),
        (&["--collector", "c.example:https"], 2, "HOST:PORT"),
        (&["--collector", "c:1", "--token", "t"], 2, "--ca-hash is missing"),
        (&["--collector", "c:1", "--token", "t", "--ca-hash", "sha256:12"], 2, "64 hex digits"),
        (&["--collector", "c:1", "--ca-hash", &hash], 2, "--token is missing"),
        (&["--frobnicate"], 2, "unknown option --frobnicate"),
        (&["--label", "rack"], 2, "--label takes K=V"),
        (&["--wait", "soon"], 2, "whole seconds"),
    ];
    for (words, code, said) in cases {
        check(&machine.install(words), code, &[said]);
    }
    let words = [&good[..], &["--binary", "/no/such/agent"]].concat();
    check(&machine.install(&words), 1, &["/no/such/agent is no file", "Nothing was changed"]);
    for path in [BINARY, CONFIG, UNIT, STATE] {
        assert!(!machine.path(path).exists(), "{path}");
    }
    assert!(Path::new(&machine.root.join("agent")).exists(), "{agent}");
}
