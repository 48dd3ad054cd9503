//! What is sound but could be better: said at `check` and at the start.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{Config, DEFAULT_FILE};
use crate::notify::{kinds, reach};
use crate::report::plans::Catalogue;
use crate::store;
use crate::{clock, files};

/// How long agents keep what was acknowledged.
const AGENTS_KEEP: Duration = Duration::from_secs(7200);

impl Config {
    /// One line each, without any secret. `file` is that of the flag. Looks at the database in `data_dir`
    /// when there is one, and changes nothing.
    #[must_use]
    pub fn hints(&self, file: Option<&Path>) -> Vec<String> {
        let mut hints = Vec::new();
        if self.detect.witnesses.is_empty() {
            hints.push(
                "[detect] witnesses is empty: when every agent falls silent the collector guesses by \
                 its own routes and resolvers whether its own network is gone. Name two addresses beyond \
                 your uplink that answer, such as \"192.0.2.1:443\""
                    .to_owned(),
            );
        }
        hints.extend(reach::nobody_hears(&self.notify, clock::now()));
        hints.extend(self.backups());
        hints.extend(self.links_from_here_only());
        hints.extend(self.unmatched());
        hints.extend(self.unlisted_plans());
        hints.extend(self.readable_secrets(file.unwrap_or(Path::new(DEFAULT_FILE))));
        hints
    }

    /// Backups that would not help.
    fn backups(&self) -> Vec<String> {
        let mut hints = Vec::new();
        let Some(dir) = &self.backup.dir else { return hints };
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if whole(dir).starts_with(whole(&self.data_dir)) {
            hints.push(
                "[backup] dir is inside data_dir: what takes the one takes the other. Name a folder on \
                 another disk"
                    .to_owned(),
            );
        }
        if self.backup.interval.0 > AGENTS_KEEP {
            hints.push(format!(
                "[backup] interval is {}: agents keep what was acknowledged for two hours and send it anew \
                 after a restore; what is older than that and newer than the last backup would be missing. \
                 Write \"1h\"",
                self.backup.interval
            ));
        }
        hints
    }

    /// Links begin with the address it listens on, and only this machine can open those.
    fn links_from_here_only(&self) -> Option<String> {
        let listen = &self.http.listen;
        let host = listen.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
        let ip = host.parse::<std::net::IpAddr>();
        let is_here =
            host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
        (is_here && self.http.public_url.is_none() && !self.notify.is_empty()).then(|| {
            format!(
                "[http] public_url is not set: links in messages begin with http://{listen}, which opens \
                 nothing elsewhere. Write the address at which people reach this collector, such as \
                 \"https://gatewatch.example\""
            )
        })
    }

    /// Routes that match no server of today.
    fn unmatched(&self) -> Vec<String> {
        let matches = || self.notify.iter().map(|config| &config.matches);
        if matches().all(BTreeMap::is_empty) {
            return Vec::new();
        }
        // A collector that never ran has no database; one of another release is not ours to read.
        let fleet =
            store::peek(&self.data_dir).and_then(|conn| reach::fleet(&conn, matches()).ok());
        let Some(fleet) = fleet else { return Vec::new() };
        let hint = |(index, matches): (usize, &BTreeMap<String, String>)| {
            let why = reach::unmatched(matches, &fleet)?;
            let name = self.notify[index].route(index);
            Some(format!("[[notify]] {name}: {why}: until one has it this route tells nobody"))
        };
        matches().enumerate().filter_map(hint).collect()
    }

    /// Plans of servers of today that the catalogue does not have.
    fn unlisted_plans(&self) -> Vec<String> {
        let Ok(Some(catalogue)) = self.report.catalogue() else { return Vec::new() };
        let all = || std::iter::empty();
        let fleet = store::peek(&self.data_dir).and_then(|conn| reach::fleet(&conn, all()).ok());
        unlisted(&catalogue, &fleet.unwrap_or_default())
    }

    /// URLs that are secrets, in a file that everybody can read.
    fn readable_secrets(&self, file: &Path) -> Vec<String> {
        if !files::is_open_to_others(file).unwrap_or(false) {
            return Vec::new();
        }
        let shown = file.display();
        let hint = |what: String| {
            format!(
                "{what} url lets whoever knows it write there, and everybody can read {shown}: put it \
                 into a file of its own and name that as url_file, or `chmod o= {shown}`"
            )
        };
        let is_secret = |kind: &str| kinds::find(kind).is_some_and(|kind| kind.is_url_secret);
        let routes = self.notify.iter().enumerate();
        let of_routes = routes
            .filter(|(_, config)| config.url.is_some() && is_secret(&config.kind))
            .map(|(index, config)| hint(format!("[[notify]] {}:", config.route(index))));
        let of_deadman = self.deadman.url.iter().map(|_| hint("[deadman]".to_owned()));
        of_routes.chain(of_deadman).collect()
    }
}

/// One line for each plan that labels name and the catalogue does not have.
fn unlisted(catalogue: &Catalogue, fleet: &[reach::Server]) -> Vec<String> {
    let mut missing: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
    for server in fleet {
        let label = |key: &str| server.labels.get(key).map(String::as_str);
        if let Some(plan) = label("plan")
            && catalogue.find(plan, label("provider")).is_none()
        {
            *missing.entry((plan, label("provider"))).or_default() += 1;
        }
    }
    let hint = |((plan, provider), n): ((&str, Option<&str>), usize)| {
        let of = provider.map(|of| format!(" of {of}")).unwrap_or_default();
        let servers = if n == 1 { "1 server".to_owned() } else { format!("{n} servers") };
        format!(
            "[report] plans has no plan {plan:?}{of}, which is the label of {servers}: reports cannot tell what \
             that costs. Add it, or correct the label"
        )
    };
    missing.into_iter().map(hint).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::Store;
    use crate::web::tests::Site;

    fn config(text: &str, data_dir: &Path) -> Config {
        let mut config: Config = toml::from_str(text).unwrap();
        config.data_dir = data_dir.to_owned();
        config.detect.witnesses = vec!["192.0.2.1:443".into()];
        config.http.public_url = Some("https://gatewatch.example".into());
        config
    }

    #[test]
    fn a_collector_without_witnesses_and_receivers_is_told_so() {
        let hints = Config::default().hints(Some(Path::new("/no/such.toml")));
        assert_eq!(hints.len(), 2, "{hints:#?}");
        assert!(hints[0].starts_with("[detect] witnesses is empty: "));
        assert!(hints[1].starts_with("there is no [[notify]]: nobody will be told"));
    }

    #[test]
    fn backups_that_would_not_help_are_pointed_out() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("copies");
        for (backup, interval, n_hints) in
            [(inside.as_path(), "1h", 1), (inside.as_path(), "1d", 2), (Path::new("/no"), "2h", 0)]
        {
            let text = format!("[backup]\ndir = {backup:?}\ninterval = {interval:?}");
            let hints = config(&text, dir.path()).hints(Some(Path::new("/no/file")));
            let told = hints.iter().filter(|hint| hint.contains("[backup]")).count();
            assert_eq!(told, n_hints, "{hints:#?}");
        }
    }

    #[test]
    fn links_that_open_on_the_collector_alone_are_pointed_out() {
        let route = "[[notify]]\nkind = 'webhook'\n";
        let dir = tempfile::tempdir().unwrap();
        for (text, public_url, listen, is_told) in [
            (route, None, "127.0.0.1:8503", true),
            (route, None, "0.0.0.0:8503", true),
            (route, None, "[::1]:8503", true),
            (route, None, "[::]:8503", true),
            (route, None, "localhost:8503", true),
            (route, None, "192.0.2.7:8503", false),
            (route, None, "gatewatch.example:8503", false),
            (route, Some("https://gatewatch.example"), "127.0.0.1:8503", false),
            ("", None, "127.0.0.1:8503", false),
        ] {
            let mut config = config(text, dir.path());
            config.http.public_url = public_url.map(str::to_owned);
            config.http.listen = listen.into();
            let hints = config.hints(Some(Path::new("/no/file")));
            let told = hints.iter().any(|hint| hint.contains("public_url is not set"));
            assert_eq!(told, is_told, "{listen}: {hints:#?}");
        }
    }

    #[tokio::test]
    async fn a_route_that_matches_no_server_of_today_is_named_and_nothing_is_written() {
        let site = Site::new();
        site.add_server("web-07").await;
        let route = |rack: &str| {
            format!(
                "[[notify]]\nkind = 'webhook'\nname = '{rack}'\nmatch.rack = '{rack}'\n\
                 [[notify]]\nkind = 'webhook'\n"
            )
        };
        let hints = |text: &str, dir: &Path| config(text, dir).hints(Some(Path::new("/no/file")));
        let dir = site.dir.path().to_owned();
        assert_eq!(hints(&route("r7"), &dir), Vec::<String>::new(), "while the collector runs");
        let told = "[[notify]] r9: no server has rack=r9: until one has it this route tells nobody"
            .to_owned();
        assert_eq!(hints(&route("r9"), &dir), std::slice::from_ref(&told));
        site.state.store.close().await.unwrap();
        drop(site.router);
        drop(site.state);
        drop(Store::open(&dir).unwrap());
        let names = || {
            let all = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name());
            all.collect::<std::collections::BTreeSet<_>>()
        };
        let before = names();
        assert_eq!(hints(&route("r9"), &dir), [told], "while it does not");
        assert_eq!(names(), before, "no file is made");
        let nowhere = tempfile::tempdir().unwrap();
        assert_eq!(hints(&route("r9"), nowhere.path()), Vec::<String>::new());
        assert_eq!(std::fs::read_dir(nowhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn plans_that_labels_name_and_the_catalogue_does_not_have_are_pointed_out() {
        let shipped = include_str!("../../../deploy/config/plans.toml");
        let catalogue = Catalogue::parse("plans.toml", shipped).unwrap();
        let server = |labels: &[(&str, &str)]| reach::Server {
            name: "web".into(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            sites: Vec::new(),
            pools: BTreeSet::new(),
        };
        let fleet = [
            server(&[("plan", "small"), ("provider", "northcloud")]),
            server(&[("plan", "Small")]),
            server(&[("plan", "v2"), ("provider", "northcloud")]),
            server(&[("plan", "v2"), ("provider", "northcloud")]),
            server(&[("plan", "huge")]),
            server(&[("rack", "r7")]),
        ];
        let told = unlisted(&catalogue, &fleet);
        let begins = [
            "[report] plans has no plan \"huge\", which is the label of 1 server: ",
            "[report] plans has no plan \"v2\" of northcloud, which is the label of 2 servers: ",
        ];
        assert_eq!(told.len(), 2, "{told:#?}");
        assert!(told.iter().zip(begins).all(|(told, begin)| told.starts_with(begin)), "{told:#?}");
        assert_eq!(unlisted(&catalogue, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_secret_url_in_a_file_that_all_can_read_is_pointed_out_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("collector.toml");
        let text = "[deadman]\nurl = 'https://x/hunter2'\n[[notify]]\nkind = 'slack'\n\
                    url = 'https://hooks.example/hunter2'\n[[notify]]\nkind = 'webhook'\nurl = 'https://y'\n";
        std::fs::write(&file, text).unwrap();
        for (mode, n_hints) in [(0o644, 2), (0o640, 0)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let hints = config(text, dir.path()).hints(Some(&file));
            assert_eq!(hints.len(), n_hints, "{mode:o}: {hints:#?}");
            assert!(
                hints.iter().all(|hint| hint.contains("url_file") && !hint.contains("hunter2"))
            );
        }
    }
}
