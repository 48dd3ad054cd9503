//! What is told of PHP-FPM pools, worked out anew: how busy they were, and how many children fit.

use super::capacity::{CHILDREN, Look};
use super::errors::Kinds;
use super::table::Row;
use super::truth::Want;

/// The rows of all pools.
pub(super) fn rows(look: &Look<'_>, kinds: &Kinds) -> Vec<Row> {
    look.pools(kinds)
}

impl Look<'_> {
    fn pools(&self, kinds: &Kinds) -> Vec<Row> {
        let mut rows = Vec::new();
        for server in self.truth.servers() {
            let pools = self.truth.of(server, "phpfpm.max_children", &self.hours);
            let waited =
                |pool: &str| self.minutes(server, "phpfpm.listen_queue", pool).n_above(0.0);
            let mut pools: Vec<(u64, &str)> =
                pools.into_iter().map(|pool| (waited(pool).0, pool)).collect();
            // Memory goes to who waited longest first.
            pools.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
            let all = self.free(server);
            let mut free = all;
            for (n_waiting, pool) in pools {
                let mut row = self.pool(server, pool);
                let room = self.room(server, pool);
                let fit = room.zip(all).map(|(room, free)| {
                    Want::Between(
                        room.running[0].floor() + (free[0] / room.each[1]).floor(),
                        room.running[1].floor() + (free[1] / room.each[0]).floor(),
                    )
                });
                row.put("children_fit", fit.unwrap_or(Want::Unknown));
                let raise = room.filter(|_| n_waiting > 0).zip(free);
                let raise = raise.and_then(|(room, free)| room.raise(free));
                row.put("raise_to", raise.as_ref().map_or(Want::Unknown, |(want, _)| want.clone()));
                free = raise.map_or(free, |(_, left)| Some(left));
                let key = (server.to_owned(), pool.to_owned());
                let (least, most) = kinds.pools.get(&key).copied().unwrap_or_default();
                row.put("error_minutes", Want::Between(least, most));
                rows.push(row);
            }
        }
        rows
    }

    /// What is told of a pool by itself.
    fn pool(&self, server: &str, pool: &str) -> Row {
        let of = |what: &str| self.minutes(server, &format!("phpfpm.{what}"), pool);
        let busy = of("active_processes");
        let children = ("phpfpm.active_processes", "phpfpm.max_children");
        let mut row = Row::new(&[("server", server), ("pool", pool)]);
        let last = self.last(server, "phpfpm.max_children", pool).map(|(_, n)| n.round());
        row.put("max_children", Want::maybe(last));
        row.percentiles(["busy_p50", "busy_p95", "busy_p99", "busy_max"], &busy);
        row.put("above_share", self.shares(server, children, pool).share_above(CHILDREN));
        row.put("waiting_minutes", of("listen_queue").minutes_above(0.0));
        let times = of("max_children_reached");
        let known = (times.n() > 0).then(|| times.rise.round());
        row.put("exhausted_times", Want::maybe(known));
        row.put("running_p95", of("total_processes").quantile(0.95));
        row.put("child_bytes", of("memory_per_process").quantile(0.95));
        row
    }

    /// Between what the memory lies that children could have in all but the fullest 5 of 100 minutes.
    fn free(&self, server: &str) -> Option<[f64; 2]> {
        let available = self.own(server, "system.memory.available").quantile(0.05).ends()?;
        let (_, all) = self.last(server, "system.memory.limit", "")?;
        Some(available.map(|bytes| (bytes - 0.1 * all).max(0.0)))
    }

    fn room(&self, server: &str, pool: &str) -> Option<Room> {
        let of = |what: &str, q| {
            self.minutes(server, &format!("phpfpm.{what}"), pool).quantile(q).ends()
        };
        Some(Room {
            max: self.last(server, "phpfpm.max_children", pool)?.1.round(),
            running: of("total_processes", 0.95)?,
            each: of("memory_per_process", 0.95)?,
            queue: of("listen_queue", 0.99)?,
            is_exhausted: self.minutes(server, "phpfpm.max_children_reached", pool).rise.round()
                > 0.0,
        })
    }
}

/// What a pool takes and could take: least and most.
#[derive(Clone, Copy, Debug)]
struct Room {
    max: f64,
    running: [f64; 2],
    each: [f64; 2],
    queue: [f64; 2],
    is_exhausted: bool,
}

impl Room {
    /// What `pm.max_children` could be, and the memory that is left then; `None`: as it is.
    fn raise(&self, free: [f64; 2]) -> Option<(Want, [f64; 2])> {
        let to = [0, 1].map(|end: usize| {
            let wanted = ((self.max + self.queue[end]) * 1.2 * (1.0 - 1e-9)).ceil();
            let fit = self.running[end].min(self.max) + free[end] / self.each[1 - end];
            wanted.max(self.max + 1.0).min(fit.floor())
        });
        if !self.is_exhausted || to[1] <= self.max {
            return None;
        }
        let more = to.map(|to| (to - self.max).max(0.0));
        let left =
            [0, 1].map(|end: usize| (free[end] - more[1 - end] * self.each[1 - end]).max(0.0));
        let is_sure = to[0] > self.max;
        let want = if is_sure { Want::Between } else { Want::Perhaps };
        Some((want(to[0], to[1]), left))
    }
}
