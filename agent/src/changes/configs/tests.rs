//! What is a change of a file and what is none.

use super::*;
use crate::discover::{Certificate, Site};
use std::os::unix::fs::symlink;
use std::time::UNIX_EPOCH;

fn set_mtime(path: &Path, seconds: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

/// A root that is looked at again and again, at once or as after a restart.
struct Watch {
    dir: tempfile::TempDir,
    configs: Configs,
    seen: Seen,
    discovery: Arc<Discovery>,
}

impl Watch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (configs, seen) = (Configs::new(Vec::new()), Seen::default());
        Self { dir, configs, seen, discovery: Arc::default() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn discover(&mut self, discovery: Discovery) {
        self.discovery = Arc::new(discovery);
    }

    fn look(&mut self) -> Vec<Change> {
        let now = clock::instant();
        let root = self.dir.path().to_owned();
        self.configs.look(&root, &self.discovery, &mut self.seen, now).changes
    }

    fn restart(&mut self) {
        self.configs = Configs::new(Vec::new());
    }

    /// What is told, below the root.
    fn told(&mut self) -> Vec<String> {
        let root = format!("{}/", self.dir.path().display());
        let changes = self.look().into_iter();
        changes.map(|c| format!("{}: {}", c.kind, c.what.replace(&root, ""))).collect()
    }
}

fn nginx() -> Discovery {
    Discovery { config_files: vec!["/etc/nginx/sites-enabled".into()], ..Discovery::default() }
}

#[test]
fn content_counts_and_touching_does_not() {
    let mut watch = Watch::new();
    let a = watch.write("etc/nginx/sites-enabled/a.conf", "server a;");
    let b = watch.write("etc/nginx/sites-enabled/b.conf", "server b;");
    let site =
        Site { name: "b.example".into(), source: format!("{}:1", b.display()), ..Site::default() };
    watch.discover(Discovery { sites: vec![site], ..nginx() });
    assert!(watch.told().is_empty(), "the first look");
    set_mtime(&a, 1_000_000);
    assert!(watch.told().is_empty(), "touched");
    fs::write(&b, "server B;").unwrap();
    set_mtime(&b, 1_000_001); // as a copy with its times
    let changes = watch.look();
    assert_eq!(changes.len(), 1);
    let change = &changes[0];
    assert_eq!((change.what.as_str(), change.path.as_str()), (b.to_str().unwrap(), &*change.what));
    assert_eq!(change.site.as_deref(), Some("b.example"));
    let hashes = [b"server b;", b"server B;"].map(|text| Some(mark::hash(text)));
    assert_eq!([change.hash_before, change.hash_after], hashes);
    let age = clock::now().0 - change.at.0;
    assert!((0..60_000).contains(&age), "{age} ms: an old time of a copied file is not when");
    watch.write("etc/nginx/sites-enabled/.a.conf.swp", "");
    watch.write("etc/nginx/sites-enabled/a.conf~", "");
    assert!(watch.told().is_empty(), "editors' leavings");
    watch.write("etc/nginx/sites-enabled/c.conf", "server c;");
    assert_eq!(watch.told(), ["config: etc/nginx/sites-enabled/c.conf added"]);
    symlink(&b, watch.path("etc/nginx/sites-enabled/d.conf")).unwrap();
    assert_eq!(watch.told(), ["config: etc/nginx/sites-enabled/d.conf added"]);
    fs::remove_file(&a).unwrap();
    assert_eq!(watch.told(), ["config: etc/nginx/sites-enabled/a.conf removed"]);
    assert!(watch.told().is_empty());
}

#[test]
fn a_file_behind_a_link_is_told_once_under_the_name_that_is_read() {
    let mut watch = Watch::new();
    let real = watch.write("etc/nginx/sites-available/a", "1");
    fs::create_dir_all(watch.path("etc/nginx/sites-enabled")).unwrap();
    symlink("../sites-available/a", watch.path("etc/nginx/sites-enabled/a")).unwrap();
    watch.discover(nginx());
    assert!(watch.told().is_empty());
    fs::write(&real, "2").unwrap();
    assert_eq!(watch.told(), ["config: etc/nginx/sites-enabled/a"]);
    // Two links to one file.
    symlink("../sites-available/a", watch.path("etc/nginx/sites-enabled/b")).unwrap();
    assert_eq!(watch.told(), ["config: etc/nginx/sites-enabled/b added"]);
    fs::write(&real, "3").unwrap();
    assert_eq!(watch.told(), ["config: etc/nginx/sites-enabled/a"]);
    assert!(watch.told().is_empty());
}

#[test]
fn files_that_are_only_now_asked_for_are_no_change() {
    let mut watch = Watch::new();
    watch.write("etc/nginx/sites-enabled/a", "1");
    let b = watch.write("etc/apache2/sites-enabled/b", "1");
    // File times are coarse: until the clock is surely later.
    let changed_at = inspect(&b, None, 0).unwrap().changed_at;
    while clock::now().0 <= changed_at + TICK_MS {
        std::thread::yield_now();
    }
    assert!(watch.told().is_empty() && watch.seen.marks.is_empty(), "nothing is discovered yet");
    watch.discover(nginx());
    assert!(watch.told().is_empty());
    let both = vec!["/etc/nginx/sites-enabled".into(), "/etc/apache2/sites-enabled".into()];
    watch.discover(Discovery { config_files: both, ..Discovery::default() });
    assert!(watch.told().is_empty(), "it was there before");
    assert_eq!(watch.seen.marks.len(), 2);
    // Before discovery has found anything after a restart, what was seen before stays known.
    watch.restart();
    watch.discover(Discovery::default());
    assert!(watch.told().is_empty());
    assert_eq!(watch.seen.marks.len(), 2);
}

#[test]
fn what_happened_while_the_agent_was_stopped_is_told_once() {
    let mut watch = Watch::new();
    watch.write("etc/nginx/sites-enabled/a", "1");
    let b = watch.write("etc/nginx/sites-enabled/b", "1");
    watch.discover(nginx());
    assert!(watch.told().is_empty());
    watch.write("etc/nginx/sites-enabled/a", "2");
    fs::remove_file(b).unwrap();
    let text = serde_json::to_string(&watch.seen).unwrap();
    watch.restart();
    watch.seen = serde_json::from_str(&text).unwrap();
    let want = ["config: etc/nginx/sites-enabled/a", "config: etc/nginx/sites-enabled/b removed"];
    assert_eq!(watch.told(), want);
    assert!(watch.told().is_empty());
}

#[test]
fn every_kind_of_file_is_told_as_its_kind() {
    let mut watch = Watch::new();
    let made = |year| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 2, 1);
        params.self_signed(&key).unwrap().pem()
    };
    let files = [
        ("etc/mysql/my.cnf", "config: etc/mysql/my.cnf"),
        ("etc/csf/csf.conf", "firewall: etc/csf/csf.conf"),
        ("etc/resolv.conf", "dns: etc/resolv.conf"),
        ("etc/cron.d/job", "schedule: etc/cron.d/job"),
        ("etc/ssl/a.pem", "certificate: etc/ssl/a.pem renewed, until 2028-02-01"),
    ];
    for (path, _) in files {
        watch.write(path, "");
    }
    watch.write("etc/ssl/a.pem", &made(2027));
    let path = watch.path("etc/ssl/a.pem");
    let certificate = Certificate { path, site: Some("a.example".into()) };
    watch.discover(Discovery { certificates: vec![certificate], ..nginx() });
    assert!(watch.told().is_empty());
    let renewed = made(2028);
    for (path, want) in files {
        let text = if path.ends_with("pem") { &renewed } else { "other\n" };
        watch.write(path, text);
        let root = format!("{}/", watch.dir.path().display());
        let changes = watch.look();
        assert_eq!(changes.len(), 1, "{path}");
        let change = &changes[0];
        assert_eq!(format!("{}: {}", change.kind, change.what.replace(&root, "")), want);
        let site = (change.kind == "certificate").then_some("a.example");
        assert_eq!(change.site.as_deref(), site);
    }
    fs::remove_file(watch.path("etc/ssl/a.pem")).unwrap();
    assert_eq!(watch.told(), ["certificate: etc/ssl/a.pem removed"]);
    watch.write("etc/ssl/a.pem", &renewed);
    assert_eq!(watch.told(), ["certificate: etc/ssl/a.pem added, until 2028-02-01"]);
    fs::remove_file(watch.path("etc/cron.d/job")).unwrap();
    assert_eq!(watch.told(), ["schedule: etc/cron.d/job removed"]);
}

#[test]
fn a_file_that_may_not_be_read_is_told_by_time_and_size() {
    let mut watch = Watch::new();
    // Too large to be read stands for root's own: tests may run as root.
    let path = watch.write("etc/nftables.conf", "");
    let resize = |size: u64| {
        fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
    };
    resize(mark::HASHED_BYTES_MAX + 1);
    watch.discover(nginx());
    assert!(watch.told().is_empty());
    resize(mark::HASHED_BYTES_MAX + 2);
    let changes = watch.look();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].hash_before, changes[0].hash_after), (None, None));
}

#[test]
fn a_quiet_look_wakes_nothing() {
    let mut watch = Watch::new();
    watch.write("etc/nginx/sites-enabled/a", "1");
    watch.discover(nginx());
    watch.look();
    let (root, now) = (watch.dir.path().to_owned(), clock::instant());
    let mut look = |after: Duration| {
        let looked = watch.configs.look(&root, &watch.discovery, &mut watch.seen, now + after);
        (looked.is_awake, looked.is_moved)
    };
    assert_eq!(look(Duration::from_secs(2)), (false, false));
    assert_eq!(look(Duration::from_secs(60)), (true, false), "the sweep");
}
