//! What each server needs of a plan, from its figures. Pure.

use super::ahead::Ahead;
use super::input::{Series, Server};
use super::parts::View;
use super::saturation::{memory_pressure, oom_kills};
use super::usage::Resource;
use crate::model::ServerId;
use crate::report::forecast::Expected;
use crate::report::need::{Demand, Need, Size};

/// Share of a minute in which something waited, or in which processors were stolen, that counts.
const WAITED: f64 = 0.1;

/// What one server needs.
pub(super) fn need(ahead: &Ahead, id: ServerId, server: &Server) -> Need {
    let has =
        Size { vcpu: server.vcpu(), memory_bytes: server.memory(), disk_bytes: server.disk() };
    let next = |name| {
        let told = ahead.weeks.get(&(id, name))?.next.ok()?;
        Some(told.p95)
    };
    let waited =
        |metric| server.plain(metric).and_then(|series| series.parts.plain().share_above(WAITED));
    Need {
        server: server.name.clone(),
        labels: server.labels.clone(),
        has,
        n_days: server.n_days(),
        coverage: server.coverage().unwrap_or(0.0),
        vcpu: demand(server.plain("system.cpu.utilization"), next("cpu"), has.vcpu),
        memory: demand(server.plain("system.memory.utilization"), next("memory"), has.memory_bytes),
        disk: disk(server),
        cpu_waited: waited("system.pressure.cpu"),
        memory_waited: waited(memory_pressure(server)),
        io_waited: waited("system.pressure.io"),
        steal_high: waited("system.cpu.steal"),
        n_oom_kills: oom_kills(server).unwrap_or(0),
        days_to_full: ahead.first_full(id).map(|days| (days.low, days.mid, days.high)),
        errors: server.errors,
    }
}

/// Of a share of something whose size is known: how much of it.
fn demand(series: Option<&Series>, next: Option<Expected>, has: Option<f64>) -> Demand {
    let Some(series) = series else { return Demand::default() };
    let view = series.parts.amounts();
    Demand {
        max_35d: series.max_35d.filter(|(_, size)| *size >= 1e-3).map(|(share, size)| share * size),
        next_p95: next
            .zip(has)
            .map(|(next, has)| (next.low * has, next.mid * has, next.high * has)),
        ..of_view(&view)
    }
}

fn of_view(view: &View<'_>) -> Demand {
    Demand {
        p50: view.quantile(0.5),
        p95: view.quantile(0.95),
        p995: view.quantile(0.995),
        max: view.max(),
        max_35d: None,
        next_p95: None,
    }
}

/// The file systems of a server together, each at its own percentile: no less than what they used at once.
fn disk(server: &Server) -> Demand {
    let resource = Resource::named("disk");
    let mut sum = Demand::default();
    for (mount, series) in server.all(resource.metric) {
        let Some(space) = server.space(mount) else { return Demand::default() };
        let of = of_view(&series.parts.times(space));
        let recent = series.max_35d.map(|(share, _)| share * space);
        for (all, one) in [
            (&mut sum.p50, of.p50),
            (&mut sum.p95, of.p95),
            (&mut sum.p995, of.p995),
            (&mut sum.max, of.max),
            (&mut sum.max_35d, recent),
        ] {
            if let Some(one) = one {
                *all = Some(all.unwrap_or(0.0) + one);
            }
        }
    }
    sum
}
