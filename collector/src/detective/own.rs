//! The collector's own faults, and who was heard: what keeps its troubles from reading as the fleet's.

use std::time::Duration;

use wire::UnixMillis;

use super::saved::pack;
use super::{Detective, PAST_MS};
use crate::detect::Engine;
use crate::detect::silence::Recalled;
use crate::model::{CollectorEvent, Record};
use crate::store::presence::{self, Standing};
use crate::store::{StoreError, WriteTx, collector, incidents};

/// How often a full disk is told to the detector, and how often the standing of servers is read
/// while one seems silent, ms.
const FULL_MS: i64 = 10_000;
const STANDING_MS: i64 = 1000;
/// Between two looks at the clock there is a quarter of a second; after so much more it was paused, ms.
const PAUSE_MS: i64 = 3_000;
/// A batch that arrived so long ago is read late, and how often that is told to the detector, ms.
const LAG_MS: i64 = 5_000;
const LAG_AGAIN_MS: i64 = 30_000;
/// Events of the collector that wait to be stored.
const OWN_MAX: usize = 100;
/// How far the detector's time may be ahead of the clock before that was set back, ms.
const BACK_MS: i64 = 10_000;
/// A server not heard for so long was given up before this collector had a memory, ms.
const GONE_MS: u64 = 86_400_000;

impl Detective {
    /// Sees how the collector itself does.
    pub(super) async fn see_own(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        self.see_disk(now);
        self.see_pause(now);
        self.see_back(now).await
    }

    /// Tells the detector while the disk takes nothing: agents are refused and go away.
    fn see_disk(&mut self, now: UnixMillis) {
        let is_full = self.store.stats().disk_full.get();
        if is_full && now.0 >= self.next_full {
            self.happens(now, CollectorEvent::DiskFull);
            (self.next_full, self.is_full) = (now.0 + FULL_MS, true);
        } else if !is_full && self.is_full {
            self.happens(now, CollectorEvent::DiskFree);
            self.is_full = false;
        }
    }

    /// A machine that was paused, or whose clock was set on, heard nobody meanwhile: it begins anew.
    fn see_pause(&mut self, now: UnixMillis) {
        let before = self.looked_at.replace(now);
        if let Some(before) = before.filter(|before| now.0 - before.0 > PAUSE_MS) {
            let paused_ms = now.0 - before.0;
            tracing::warn!(
                paused_ms,
                "the detector stood still; nobody is called silent for a minute"
            );
            self.happens(now, CollectorEvent::Started);
        }
    }

    /// When the clock was set back, the detector would wait for the time it has seen to come again: it
    /// begins anew with the pasts of sites. What is open has a time that has not come: it is closed, and
    /// opens anew if it fails on.
    async fn see_back(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        let back_ms = self.engine.tick().map_or(0, |tick| tick.0 - now.0);
        if back_ms <= BACK_MS || self.position < self.decided {
            return Ok(());
        }
        self.store_pending().await?;
        self.publish();
        let mut engine = Engine::new(&self.config);
        let (cases, upto) = (pack(&engine.save_cases()), self.position);
        let close = move |tx: &WriteTx<'_>| {
            incidents::close_all(tx, now, "the clock of the collector was set back")?;
            incidents::commit(tx, &[], &cases, upto)
        };
        self.store.write(close).await?;
        self.stored = upto;
        tracing::warn!(back_ms, "the clock was set back: the detector begins anew");
        std::mem::swap(&mut engine, &mut self.engine);
        self.sites.clear();
        self.told.clear();
        self.overfull.clear();
        self.hurried.values_mut().for_each(|until| *until = 0);
        self.refused = self.engine.refused();
        self.n_left_out = 0;
        (self.next_acked, self.next_position, self.next_hurry, self.next_snapshot) = (0, 0, 0, 0);
        (self.next_full, self.next_standing, self.next_known, self.lags_until) = (0, 0, 0, 0);
        self.next_past = now.0 + PAST_MS;
        if let Err(error) = self.learn(None, now).await {
            self.engine = engine; // it is tried again at the next look
            return Err(error);
        }
        for (site, past) in engine.pasts() {
            self.engine.set_past(site, past.clone());
        }
        self.wake_up(true, now).await?;
        if self.store.stats().uplink_lost.get() {
            self.happens(now, CollectorEvent::UplinkLost); // as it was told before
        }
        Ok(())
    }

    /// While it reads what arrived long ago, what servers say now is not read yet.
    pub(super) fn see_lag(&mut self, row_at: UnixMillis, now: UnixMillis) {
        if now.0 - row_at.0 > LAG_MS && row_at.0 >= self.lags_until {
            self.lags_until = row_at.0 + LAG_AGAIN_MS;
            let event = CollectorEvent::Started;
            self.engine.fold(row_at, &Record::Collector { at: row_at, event });
        }
    }

    pub(super) fn take_word(&mut self, at: UnixMillis, record: &Record) {
        match record {
            Record::Collector { event, .. } => self.happens(at, *event),
            _ => self.engine.fold(at, record),
        }
    }

    /// Something happens to the collector itself.
    pub(super) fn happens(&mut self, at: UnixMillis, event: CollectorEvent) {
        self.engine.fold(at, &Record::Collector { at, event });
        if self.own.len() == OWN_MAX {
            self.own.remove(0);
        }
        self.own.push((at, event));
    }

    pub(super) async fn store_own(&mut self) -> Result<(), StoreError> {
        if self.own.is_empty() {
            return Ok(());
        }
        let own = self.own.clone();
        self.store
            .write(move |tx| {
                own.iter().try_for_each(|(at, event)| collector::note(tx, *at, *event))
            })
            .await?;
        self.own.clear();
        Ok(())
    }

    /// Reads where every server stands, before one that seems silent is told: it may have been
    /// revoked or forgotten, have another heartbeat now, or its words were too many to be taken.
    pub(super) async fn look_up(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        if now.0 < self.next_standing || !self.engine.doubts_servers() {
            return Ok(());
        }
        self.next_standing = now.0 + STANDING_MS;
        let standings = self.store.read(presence::standings).await?;
        let counts = |standing: &&Standing| standing.state != "revoked";
        self.engine.keep(&standings.iter().filter(counts).map(|s| s.server).collect());
        for Standing { server, state, last_seen, heartbeat_ms } in standings {
            // Of a stream that broke the collector files when it noticed, which is no word; nor is what
            // was filed before the clock was set back.
            let counts = state == "up" && last_seen.0 <= now.0 + BACK_MS;
            let heard_at = if counts { last_seen } else { UnixMillis(0) };
            let heartbeat = heartbeat_ms.map(Duration::from_millis);
            self.engine.recall(server, &Recalled { heard_at, goodbye: false, heartbeat });
        }
        Ok(())
    }

    /// Remembers who was heard when, as far as the snapshot does not, and begins to listen: what was
    /// said while nobody listened is no silence.
    pub(super) async fn wake_up(&mut self, fresh: bool, now: UnixMillis) -> Result<(), StoreError> {
        for Standing { server, state, last_seen, heartbeat_ms } in
            self.store.read(presence::standings).await?
        {
            let goodbye = state == "goodbye";
            let last_seen = last_seen.min(now);
            // Long gone servers of a collector without a memory are no news.
            let recent = now.since(last_seen) <= Duration::from_millis(GONE_MS);
            let counts = state == "up" || goodbye || (fresh && recent);
            let heard_at = if counts { last_seen } else { UnixMillis(0) };
            let heartbeat = heartbeat_ms.map(Duration::from_millis);
            self.engine.recall(server, &Recalled { heard_at, goodbye, heartbeat });
        }
        self.happens(now, CollectorEvent::Started);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;

    use super::*;
    use crate::config::{Config, NotifyConfig};
    use crate::ingest::Live;
    use crate::model::{Incident, ServerId};
    use crate::store::{Store, fleet, incidents};

    const NOON: i64 = 1_795_176_000_000;
    /// Seconds in which servers 1 to 3 say nothing.
    const SILENT: Range<i64> = 70..400;
    const END: i64 = 480;

    fn at(second: i64) -> UnixMillis {
        UnixMillis(NOON + second * 1000)
    }

    fn config() -> Config {
        let notify = NotifyConfig {
            kind: "webhook".into(),
            url: Some("http://127.0.0.1:9/".into()),
            min_severity: "info".into(),
            ..NotifyConfig::default()
        };
        Config { notify: vec![notify], ..Config::default() }
    }

    /// Three servers of hypervisor hv-3 and four of hv-4.
    async fn open() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 7).await;
        let label = |tx: &crate::store::WriteTx<'_>| {
            for n in 1..=7 {
                let hypervisor = if n <= 3 { "hv-3" } else { "hv-4" };
                let labels = BTreeMap::from([("hypervisor".into(), hypervisor.to_owned())]);
                fleet::set_labels(tx, ServerId(n), fleet::LabelSource::Token, &labels)?;
            }
            Ok(())
        };
        store.write(label).await.unwrap();
        (dir, store)
    }

    async fn begin(store: &Store, now: UnixMillis) -> Detective {
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        detective.start(now).await.unwrap();
        detective
    }

    fn beat(detective: &mut Detective, n: i64, second: i64) {
        let (server, clock) = (ServerId(n), at(second));
        detective.take_word(clock, &Record::Heartbeat { server, at: clock, clock });
    }

    async fn all(store: &Store) -> Vec<Incident> {
        let all = incidents::Filter { merged: true, ..incidents::Filter::default() };
        store.read(move |conn| incidents::list(conn, &all)).await.unwrap()
    }

    /// Plays the silence; the detective dies without a word before each of these seconds.
    async fn play(crashes: &[i64]) -> (Vec<(String, String, u64)>, Vec<String>) {
        let (_dir, store) = open().await;
        let mut detective = begin(&store, at(0)).await;
        for second in 0..END {
            if crashes.contains(&second) {
                detective = begin(&store, at(second)).await;
            }
            for n in 1..=7 {
                let silent = n <= 3 && SILENT.contains(&second);
                if (second + n) % 5 == 0 && !silent {
                    beat(&mut detective, n, second);
                }
            }
            detective.try_work(Some(at(second))).await.unwrap();
        }
        let seen = all(&store).await;
        let seen = seen.into_iter().map(|i| (i.id, i.state, i.affected.n_servers)).collect();
        let owed = store.read(|conn| {
            let mut owed = conn.prepare("SELECT event FROM page ORDER BY id")?;
            owed.query_map([], |row| row.get(0))?.collect()
        });
        let owed = owed.await.unwrap();
        store.close().await.unwrap();
        (seen, owed)
    }

    #[tokio::test]
    async fn a_collector_killed_in_the_middle_of_a_silence_keeps_it_one_incident() {
        let whole = play(&[]).await;
        assert_eq!(whole.0.len(), 1, "{whole:?}");
        assert_eq!((whole.0[0].1.as_str(), whole.0[0].2), ("resolved", 3));
        assert_eq!(whole.1, ["opened", "resolved"]);
        for crashes in [&[110][..], &[110, 111, 175], &[250, 405], &[399, 401]] {
            assert_eq!(play(crashes).await, whole, "killed at {crashes:?}");
        }
        // Before it was found it is found a minute after the start, once.
        let early = play(&[80]).await;
        assert_eq!((early.0.len(), early.0[0].2, early.1.len()), (1, 3, 2), "{early:?}");
    }

    #[tokio::test]
    async fn a_machine_that_stood_still_calls_nobody_silent_who_talks_when_it_goes_on() {
        let (_dir, store) = open().await;
        let mut detective = begin(&store, at(0)).await;
        for second in (0..100).chain(150..400) {
            // What was sent meanwhile is read after the first look at the clock.
            detective.try_work(Some(at(second))).await.unwrap();
            for n in (1..=7).filter(|n| (second + n) % 5 == 0) {
                beat(&mut detective, n, second);
            }
        }
        assert_eq!(all(&store).await, []);
        let events = store.read(|conn| collector::events(conn, at(0), at(500))).await.unwrap();
        assert_eq!(events[1..], [(at(150), CollectorEvent::Started)]);
        store.close().await.unwrap();
    }

    /// Servers 1 to 3 say nothing from second 100 to 150; whether one of them was told as silent.
    async fn missed(lags: bool) -> bool {
        let (_dir, store) = open().await;
        let mut detective = begin(&store, at(0)).await;
        for second in 0..150 {
            for n in (1..=7).filter(|n| (second + n) % 5 == 0 && (*n > 3 || second < 100)) {
                beat(&mut detective, n, second);
            }
            if lags && second == 100 {
                detective.see_lag(at(second), at(second + 60));
            }
            detective.try_work(Some(at(second))).await.unwrap();
        }
        let told = !all(&store).await.is_empty();
        store.close().await.unwrap();
        told
    }

    #[tokio::test]
    async fn nobody_is_silent_while_batches_of_long_ago_are_read() {
        assert!(missed(false).await);
        assert!(!missed(true).await);
    }

    #[tokio::test]
    async fn revoked_servers_and_a_full_disk_are_no_silence_and_starts_are_filed() {
        let (_dir, store) = open().await;
        let mut detective = begin(&store, at(0)).await;
        for second in 0..200 {
            for n in 1..=7 {
                if (second + n) % 5 == 0 && (n > 1 || second < 100) && (n != 2 || second < 120) {
                    beat(&mut detective, n, second);
                }
            }
            if second == 110 {
                let now = at(second);
                store.write(move |tx| fleet::revoke(tx, "web-1", now)).await.unwrap();
            }
            store.stats().disk_full.set((120..180).contains(&second));
            detective.try_work(Some(at(second))).await.unwrap();
        }
        assert_eq!(all(&store).await, []);
        let events = store.read(|conn| collector::events(conn, at(0), at(500))).await.unwrap();
        assert_eq!(events[0], (at(0), CollectorEvent::Started));
        assert_eq!(events[1], (at(120), CollectorEvent::DiskFull));
        assert_eq!(events.len(), 1 + 6 + 1, "each ten seconds: {events:?}");
        assert_eq!(events[7], (at(180), CollectorEvent::DiskFree));
        store.close().await.unwrap();
    }
}
