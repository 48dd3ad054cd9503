//! What is told of document roots, and what their owners cannot make the agent do.

use super::super::quota::AT_ONCE_MAX;
use super::*;
use crate::clock;
use std::os::unix::fs::symlink;

/// A document root that is visited again and again.
struct Site {
    dir: tempfile::TempDir,
    docroot: PathBuf,
    seen: Docroot,
    turn: usize,
    now: UnixMillis,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let docroot = dir.path().join("site");
        fs::create_dir(&docroot).unwrap();
        Self { dir, docroot, seen: Docroot::default(), turn: 0, now: clock::now() }
    }

    fn wordpress(version: &str) -> Self {
        let site = Self::new();
        site.write("wp-includes/version.php", &format!("<?php\n$wp_version = '{version}';\n"));
        site.plugin("woocommerce", "8.1.0");
        site.plugin("akismet", "5.0");
        site.write("wp-content/themes/twenty/style.css", "/*\nVersion: 1.3\n*/");
        site.write("wp-content/themes/twenty/functions.php", "<?php");
        site.write(".htaccess", "RewriteEngine On");
        site
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.docroot.join(path);
        assert!(!path.is_symlink(), "a test writes nowhere else: {}", path.display());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn plugin(&self, name: &str, version: &str) {
        let text = format!("<?php\n/*\nPlugin Name: {name}\nVersion: {version}\n*/");
        self.write(&format!("wp-content/plugins/{name}/{name}.php"), &text);
    }

    fn visit(&mut self) -> Vec<Change> {
        let sites = ["shop.example".to_owned()];
        let mut visit = Visit::new(&self.docroot, &sites, true, self.now, self.turn % TURNS);
        self.turn += 1;
        visit.look(&mut self.seen).0
    }

    /// What is told within so many visits, with the top folder left out.
    fn told_within(&mut self, n: usize) -> Vec<String> {
        let top = format!("{}/", self.docroot.display());
        let changes: Vec<_> = (0..n).flat_map(|_| self.visit()).collect();
        changes.into_iter().map(|c| format!("{}: {}", c.kind, c.what.replace(&top, ""))).collect()
    }

    fn told(&mut self) -> Vec<String> {
        self.told_within(1)
    }

    /// As content management systems do it: the new one takes the place of the old one.
    fn replace_plugin(&self, name: &str, version: &str) {
        let plugins = self.docroot.join("wp-content/plugins");
        fs::rename(plugins.join(name), self.dir.path().join("old")).unwrap();
        self.plugin(name, version);
        fs::remove_dir_all(self.dir.path().join("old")).unwrap();
    }
}

#[test]
fn plugins_themes_and_the_core_of_wordpress_tell_their_versions() {
    let mut site = Site::wordpress("6.4.2");
    assert!(site.told().is_empty(), "the first visit");
    assert!(site.told_within(TURNS).is_empty());
    site.replace_plugin("woocommerce", "8.2.0");
    let change = &site.visit()[0];
    assert_eq!(change.what, "plugin woocommerce 8.1.0 to 8.2.0 on shop.example");
    assert_eq!((change.kind, change.site.as_deref()), ("plugin", Some("shop.example")));
    assert!(change.hash_before.is_some() && change.hash_before != change.hash_after);
    assert!(change.path.ends_with("/wp-content/plugins/woocommerce/woocommerce.php"));
    assert!((0..60_000).contains(&(clock::now().0 - change.at.0)));
    site.write("wp-includes/version.php", "<?php\n$wp_version = '6.5';\n");
    assert_eq!(site.told(), ["plugin: WordPress 6.4.2 to 6.5 on shop.example"]);
    site.plugin("jetpack", "13.1");
    assert_eq!(site.told(), ["plugin: plugin jetpack 13.1 installed on shop.example"]);
    fs::remove_dir_all(site.docroot.join("wp-content/plugins/akismet")).unwrap();
    assert!(site.told().is_empty(), "it may only be exchanged");
    assert_eq!(site.told(), ["plugin: plugin akismet 5.0 removed on shop.example"]);
    site.write("wp-content/mu-plugins/own.php", "<?php /* Plugin Name: Own */");
    assert!(site.told().is_empty(), "a folder seen for the first time");
    site.write("wp-content/mu-plugins/more.php", "<?php /* Plugin Name: More */");
    assert_eq!(site.told(), ["plugin: must-use plugin more.php installed on shop.example"]);
    assert!(site.told_within(2 * TURNS).is_empty());
}

#[test]
fn a_plugin_put_there_in_the_same_tick_of_the_clock_as_another_is_told() {
    let mut site = Site::wordpress("6.4.2");
    assert!(site.told_within(2).is_empty());
    site.plugin("jetpack", "13.1");
    let folder = site.docroot.join("wp-content/plugins");
    let facts = Facts::of(&fs::metadata(folder).unwrap());
    for (name, changed_at) in &mut site.seen.shelves {
        if name == "wp-content/plugins" {
            *changed_at = facts.changed_at;
        }
    }
    assert_eq!(site.told(), ["plugin: plugin jetpack 13.1 installed on shop.example"]);
}

#[test]
fn what_is_overwritten_in_place_is_seen_within_ten_visits() {
    let mut site = Site::wordpress("6.4.2");
    site.told();
    site.plugin("woocommerce", "8.1.1");
    site.write("wp-content/themes/twenty/style.css", "/*\nVersion: 1.4\n*/");
    let mut told = site.told_within(TURNS);
    told.sort();
    let want = [
        "plugin: plugin woocommerce 8.1.0 to 8.1.1 on shop.example",
        "plugin: theme twenty 1.3 to 1.4 on shop.example",
    ];
    assert_eq!(told, want);
    let text = "<?php\n/*\nPlugin Name: woocommerce\nVersion: 8.1.1\n*/ die;";
    site.write("wp-content/plugins/woocommerce/woocommerce.php", text);
    let want = ["plugin: plugin woocommerce 8.1.1 changed on shop.example"];
    assert_eq!(site.told_within(TURNS), want);
    site.write("wp-content/themes/twenty/functions.php", "<?php oops");
    assert_eq!(site.told(), ["plugin: wp-content/themes/twenty/functions.php"]);
}

#[test]
fn files_that_decide_how_a_site_is_served_are_told_by_their_hashes() {
    let mut site = Site::wordpress("6.4.2");
    site.write("wp-admin/.htaccess", "Require all granted");
    site.told();
    let path = site.docroot.join(".htaccess");
    fs::File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(site.told().is_empty(), "touched");
    site.write(".htaccess", "Deny from all");
    let change = site.visit().remove(0);
    assert_eq!((change.kind, change.what.as_str()), ("config", path.to_str().unwrap()));
    assert_eq!(change.hash_before, Some(hash(b"RewriteEngine On")));
    assert_eq!(change.hash_after, Some(hash(b"Deny from all")));
    site.write("wp-admin/.htaccess", "Require all denied");
    assert_eq!(site.told(), ["config: wp-admin/.htaccess"]);
    site.write("wp-content/object-cache.php", "<?php");
    assert_eq!(site.told(), ["plugin: wp-content/object-cache.php added"]);
    site.write("blog/.htaccess", "x");
    assert_eq!(site.told(), ["config: blog/.htaccess added"]);
    fs::remove_file(site.docroot.join("blog/.htaccess")).unwrap();
    assert_eq!(site.told(), ["config: blog/.htaccess removed"]);
    site.write("composer.lock", "{}");
    let deployed = "plugin: application code deployed (composer.lock changed) on shop.example";
    assert_eq!(site.told(), [deployed]);
    assert!(site.told_within(TURNS).is_empty());
}

#[test]
fn a_deployment_by_a_link_is_told_with_where_it_leads() {
    let mut site = Site::new();
    let releases = site.dir.path().join("releases");
    for (release, text) in [("1", "a"), ("2", "b")] {
        fs::create_dir_all(releases.join(release).join("public")).unwrap();
        fs::write(releases.join(release).join("composer.lock"), text).unwrap();
    }
    let current = site.dir.path().join("current");
    symlink("releases/1", &current).unwrap();
    site.docroot = current.join("public");
    assert!(site.told_within(3).is_empty());
    symlink("releases/2", site.dir.path().join("next")).unwrap();
    fs::rename(site.dir.path().join("next"), &current).unwrap();
    let want = [
        "plugin: deployed: current -> releases/2 on shop.example",
        "plugin: application code deployed (composer.lock changed) on shop.example",
    ];
    assert_eq!(site.told(), want);
    assert!(site.told_within(3).is_empty());
}

#[test]
fn joomla_and_drupal_tell_theirs() {
    let mut site = Site::new();
    let xml = |version: &str| format!("<extension><version>{version}</version></extension>");
    site.write("administrator/manifests/files/joomla.xml", &xml("5.0.1"));
    site.write("plugins/system/cache/cache.xml", &xml("3.0"));
    site.told();
    site.write("administrator/manifests/files/joomla.xml", &xml("5.1.0"));
    assert_eq!(site.told(), ["plugin: Joomla 5.0.1 to 5.1.0 on shop.example"]);
    site.write("plugins/system/cache/cache.xml", &xml("3.1"));
    assert_eq!(site.told_within(TURNS), ["plugin: plugin cache 3.0 to 3.1 on shop.example"]);

    let mut site = Site::new();
    site.write("core/lib/Drupal.php", "<?php class Drupal { const VERSION = '10.2.1'; }");
    site.write("modules/contrib/token/token.info.yml", "name: T\nversion: '8.x-1.13'\n");
    site.told();
    site.write("modules/contrib/token/token.info.yml", "name: T\nversion: '8.x-1.15'\n");
    site.write("core/lib/Drupal.php", "<?php class Drupal { const VERSION = '10.2.2'; }");
    let mut told = site.told_within(TURNS);
    told.sort();
    let want = [
        "plugin: Drupal 10.2.1 to 10.2.2 on shop.example",
        "plugin: module token 8.x-1.13 to 8.x-1.15 on shop.example",
    ];
    assert_eq!(told, want);
}

#[test]
fn a_hostile_owner_can_neither_lead_the_agent_astray_nor_make_it_talk() {
    let mut site = Site::wordpress("6.4.2");
    fs::write(site.dir.path().join("secret"), "$wp_version = '9.9.9'; Version: 9.9.9").unwrap();
    site.told();
    // Links instead of files and folders.
    let version = site.docroot.join("wp-includes/version.php");
    fs::remove_file(&version).unwrap();
    symlink(site.dir.path().join("secret"), &version).unwrap();
    fs::remove_file(site.docroot.join(".htaccess")).unwrap();
    symlink(site.dir.path().join("secret"), site.docroot.join(".htaccess")).unwrap();
    symlink("/", site.docroot.join("all")).unwrap();
    symlink(site.dir.path(), site.docroot.join("wp-content/plugins/linked")).unwrap();
    let pipe = site.docroot.join("wp-content/db.php");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(site.told_within(TURNS), ["config: .htaccess removed"]);
    // A version that is a text, and names that a terminal would obey.
    fs::remove_file(&version).unwrap();
    site.write("wp-includes/version.php", "$wp_version = '<script>alert(1)</script>';");
    site.write("wp-content/plugins/a\u{1b}[31m/x.php", "/* Plugin Name: x\nVersion: 1\n*/");
    assert!(site.told_within(TURNS).is_empty());
    // A flood.
    site.write("wp-includes/version.php", "$wp_version = '6.4.2';");
    for n in 0..1000 {
        site.plugin(&format!("p{n}"), "1");
    }
    let told = site.told();
    let n_at_once = AT_ONCE_MAX - 1; // the bucket has told one
    assert_eq!(told.len(), n_at_once);
    assert!(told[n_at_once - 1].starts_with("plugin: and "), "{told:?}");
    fs::remove_file(site.docroot.join(".htaccess")).unwrap(); // the link
    for n in 0..50 {
        site.write(".htaccess", &format!("{n}"));
        assert!(site.told().is_empty(), "the hour is over");
    }
    site.now = site.now.plus(std::time::Duration::from_secs(180));
    assert_eq!(site.told(), ["plugin: and 50 further changes on shop.example"]);
    assert!(site.seen.parts.len() <= PARTS_MAX + 10, "{}", site.seen.parts.len());
}

#[test]
fn a_quiet_visit_costs_few_questions() {
    let mut site = Site::wordpress("6.4.2");
    for n in 0..40 {
        site.plugin(&format!("p{n}"), "1");
    }
    site.told();
    let sites = ["shop.example".to_owned()];
    let later = clock::now().plus(std::time::Duration::from_secs(60));
    let mut visit = Visit::new(&site.docroot, &sites, true, later, 3);
    visit.look(&mut site.seen);
    let first = visit.cost;
    let mut visit = Visit::new(&site.docroot, &sites, true, later, 4);
    let (changes, _) = visit.look(&mut site.seen);
    assert!(changes.is_empty() && visit.cost < 60, "{} after {first}", visit.cost);
}
