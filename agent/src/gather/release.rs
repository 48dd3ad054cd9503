//! Logs that nothing names any more: followed while they are written, let go after a day of silence.
//!
//! A log that rotates leaves its glob for a moment, and a server writes for a while to what its
//! configuration no longer names. But where logs are cut by the day each day brings new ones, and
//! without an end to the old ones there would be no room for them. How far a log was read is kept,
//! and reading goes on there when it is named again.

use std::time::{Duration, Instant};

use crate::logs::join::Judge;
use crate::logs::watch::Watch;

use super::files::Files;

/// So long nothing names it, and nothing is written to it.
const SILENCE: Duration = Duration::from_secs(86_400);

impl Files {
    /// Closes and forgets the logs whose time is up; their places are taken by new ones.
    pub(super) fn release(&mut self, now: Instant, judge: &mut Judge, watch: &mut Watch) {
        for ix in 0..self.followed.len() {
            let followed = &mut self.followed[ix];
            if now < followed.named_at + SILENCE
                || followed.is_released
                || followed.had_data_since(now, SILENCE)
                || followed.tail.has_rotated()
            {
                continue;
            }
            self.released.add(&followed.take_vanished());
            self.orphans.extend(followed.tail.positions());
            followed.watches.drain(..).for_each(|one| watch.remove_file(one, ix));
            if let Some(source) = followed.ix.take() {
                judge.remove_source(source);
            }
            tracing::info!(
                path = %followed.source.path.display(),
                "log is let go: nothing names it any more, and nothing is written to it"
            );
            self.by_path.remove(&followed.source.path);
            for directory in &mut self.by_directory {
                if directory.all.remove(&ix) {
                    directory.by_name.retain(|_, its| *its != ix);
                }
            }
            followed.release();
            self.free.push(ix);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use jiff::tz::TimeZone;
    use wire::UnixMillis;

    use super::*;
    use crate::clock;
    use crate::config::{LogsConfig, PrivacyConfig, SourceConfig};
    use crate::logs::checkpoint::Checkpoint;
    use crate::window::Windows;

    /// The files of an agent, and the time that it is there.
    struct Machine {
        config: LogsConfig,
        files: Files,
        judge: Judge,
        watch: Watch,
        windows: Windows,
        now: Instant,
        at: UnixMillis,
    }

    impl Machine {
        fn new(config: LogsConfig) -> Self {
            let files = Files::new(&config, &Checkpoint::default(), false);
            let privacy = PrivacyConfig::default();
            let judge = Judge::new(files.discovery(), privacy, 1000, TimeZone::UTC);
            let (now, at) = (clock::instant(), clock::now());
            let (watch, windows) = (Watch::new(), Windows::default());
            Self { config, files, judge, watch, windows, now, at }
        }

        /// Time passes, and the logs are looked at and read.
        fn pass(&mut self, span: Duration) {
            (self.now, self.at) = (self.now + span, self.at.plus(span));
            let (judge, watch) = (&mut self.judge, &mut self.watch);
            self.files.refresh(&self.config, self.now, self.at);
            self.files.release(self.now, judge, watch);
            self.files.look(true, self.now, self.at, judge, watch);
            self.files.mark_all();
            self.files.read_pass(judge, &mut self.windows, self.now, self.at);
        }

        /// The logs that events of the kernel name are looked at and read.
        fn hear(&mut self) {
            let (files, judge) = (&mut self.files, &mut self.judge);
            self.watch.drain(|event| files.mark(event));
            files.look(false, self.now, self.at, judge, &mut self.watch);
            files.read_pass(judge, &mut self.windows, self.now, self.at);
        }

        fn n_lines(&self) -> u64 {
            self.files.status().iter().map(|file| file.n_lines).sum()
        }

        fn lines_of(&self, path: &Path) -> u64 {
            let status = self.files.status();
            status.iter().filter(|file| file.path == path).map(|file| file.n_lines).sum()
        }
    }

    fn source(path: &Path) -> SourceConfig {
        SourceConfig {
            path: path.to_str().unwrap().to_owned(),
            kind: "access".to_owned(),
            format: "combined".to_owned(),
            site: Some("a.example".to_owned()),
            timezone: None,
        }
    }

    const LINE: &str =
        "192.0.2.7 - - [20/Nov/2026:12:00:05 +0000] \"GET / HTTP/1.1\" 200 1 \"-\" \"-\"\n";
    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_log_that_is_named_again_is_read_on_where_it_was_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a.log", "b.log"].map(|name| dir.path().join(name));
        for path in &paths {
            fs::write(path, LINE).unwrap();
        }
        let named = |paths: &[std::path::PathBuf]| LogsConfig {
            discover: false,
            source: paths.iter().map(|path| source(path)).collect(),
            ..LogsConfig::default()
        };
        let mut machine = Machine::new(named(&paths));
        machine.pass(MINUTE);
        assert_eq!(machine.n_lines(), 2);
        machine.config = named(&paths[..1]);
        machine.pass(Duration::from_secs(86_400 - 120));
        machine.pass(MINUTE);
        assert_eq!(machine.files.status().len(), 2, "what is let go may still be written");
        machine.pass(2 * MINUTE);
        assert_eq!(machine.files.status().len(), 1);
        // Another one takes its place.
        let other = dir.path().join("c.log");
        fs::write(&other, LINE.repeat(3)).unwrap();
        fs::write(&paths[1], LINE.repeat(5)).unwrap();
        machine.config = named(&[paths[0].clone(), other]);
        machine.pass(MINUTE);
        assert_eq!((machine.files.status().len(), machine.files.followed.len()), (2, 2));
        assert_eq!(machine.n_lines(), 1 + 3);
        machine.config.source.push(source(&paths[1]));
        machine.pass(MINUTE);
        assert_eq!(machine.n_lines(), 1 + 3 + 4, "the first line was counted before");
        assert_eq!(machine.files.take_vanished(), crate::logs::tail::Vanished::default());
    }

    /// Whoever may link into a folder of logs got a neighbour's requests from the next rotation on.
    #[tokio::test]
    async fn a_link_to_a_neighbours_log_does_not_win_its_new_file_when_that_rotates() {
        let dir = tempfile::tempdir().unwrap();
        let [link, own, log] =
            ["logs/a.log", "elsewhere.log", "logs/b.log"].map(|name| dir.path().join(name));
        fs::create_dir(dir.path().join("logs")).unwrap();
        let lines = |name: &str, n: usize| LINE.replace("GET /", &format!("GET /{name}")).repeat(n);
        fs::write(&own, lines("own", 1)).unwrap();
        fs::write(&log, lines("log", 1)).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let all = source(&dir.path().join("logs/*.log"));
        let config = LogsConfig { discover: false, source: vec![all], ..LogsConfig::default() };
        let mut machine = Machine::new(config.clone());
        machine.pass(MINUTE);
        assert_eq!(machine.lines_of(&log), 1);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&log, &link).unwrap();
        machine.pass(MINUTE);
        for n_rotations in 1..=3 {
            fs::rename(&log, dir.path().join(format!("logs/b.log.{n_rotations}"))).unwrap();
            machine.pass(MINUTE); // the link leads nowhere
            fs::write(&log, lines(&n_rotations.to_string(), 2)).unwrap();
            machine.hear();
            machine.pass(MINUTE);
            assert_eq!(machine.lines_of(&log), 1 + 2 * n_rotations);
            assert_eq!(machine.lines_of(&link), 1);
        }
        // An agent that starts in such a moment does not take the link for a log.
        fs::rename(&log, dir.path().join("logs/b.log.4")).unwrap();
        let mut machine = Machine::new(config);
        machine.pass(MINUTE);
        fs::write(&log, lines("new", 4)).unwrap();
        machine.pass(MINUTE);
        assert_eq!(machine.lines_of(&link), 0);
        assert!(machine.lines_of(&log) >= 4, "and what is found beside it");
    }

    /// Each day brought new ones, and after some weeks none could be followed any more.
    #[tokio::test]
    async fn logs_that_are_cut_by_the_day_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("etc/apache2/sites-enabled");
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(dir.path().join("var/log/apache2")).unwrap();
        let vhost = "<VirtualHost *:80>\nServerName a.example\nCustomLog \
             \"|/usr/bin/rotatelogs /var/log/apache2/a-%Y%m%d.log 86400\" combined\n</VirtualHost>\n";
        fs::write(root.join("a.conf"), vhost).unwrap();
        fs::write(dir.path().join("etc/apache2/apache2.conf"), "IncludeOptional sites-enabled/*\n")
            .unwrap();
        let config = LogsConfig { root: dir.path().to_owned(), ..LogsConfig::default() };
        let day = Duration::from_secs(86_400);
        let mut machine = Machine::new(config);
        for n in 0..30_u32 {
            let path = dir.path().join(format!("var/log/apache2/a-202611{n:02}.log"));
            fs::write(&path, LINE).unwrap();
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + (20_000 + n) * day).unwrap();
            machine.pass(day / 2);
            machine.pass(day / 2);
            let n_followed = machine.files.followed.len();
            assert!(n_followed <= 8, "{n_followed} logs are open after {n} days");
        }
        assert!(machine.files.status().iter().any(|file| file.path.ends_with("a-20261129.log")));
    }
}
