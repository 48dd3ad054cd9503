//! Who is in the sample fleet, and what goes wrong there: written down, not drawn.

/// One gibibyte.
const GIB: f64 = 1_073_741_824.0;
/// One gigabyte.
const GB: f64 = 1e9;

/// A site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub(crate) name: &'static str,
    /// Position of its pool.
    pub(crate) pool: usize,
    /// Whose it is: the user that its pool runs as.
    pub(crate) owner: &'static str,
    /// Requests a second, on average.
    pub(crate) rate: f64,
}

/// A PHP-FPM pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) name: &'static str,
    pub(crate) max_children: f64,
    /// Busy children in the busiest hour.
    pub(crate) busy: f64,
    /// Memory of one child, bytes.
    pub(crate) child_bytes: f64,
}

/// A server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// `key=value`, blank between.
    pub(crate) labels: &'static str,
    pub(crate) vcpu: f64,
    pub(crate) memory: f64,
    pub(crate) disk: f64,
    /// Share of the processors that is busy in the busiest hour, at the end.
    pub(crate) cpu: f64,
    /// Share by which all load rises in a day.
    pub(crate) growth: f64,
    /// Share of the memory in use, without load.
    pub(crate) used: f64,
    /// Share of the disk in use at the end.
    pub(crate) full: f64,
    /// Bytes by which it fills in a day.
    pub(crate) fills: f64,
    /// Share of the time that its hypervisor takes away in the evenings.
    pub(crate) steal: f64,
    /// Days before the end at which it was set up; 0: long ago.
    pub(crate) age_days: i64,
    pub(crate) pools: &'static [Pool],
    pub(crate) sites: &'static [Site],
}

const fn site(name: &'static str, pool: usize, owner: &'static str, rate: f64) -> Site {
    Site { name, pool, owner, rate }
}

const fn pool(name: &'static str, max_children: f64, busy: f64, child_mib: f64) -> Pool {
    Pool { name, max_children, busy, child_bytes: child_mib * 1_048_576.0 }
}

/// A server on which nothing is special.
const PLAIN: Server = Server {
    name: "",
    labels: "",
    vcpu: 4.0,
    memory: 8.0 * GIB,
    disk: 160.0 * GB,
    cpu: 0.45,
    growth: 0.0,
    used: 0.30,
    full: 0.42,
    fills: 0.05 * GB,
    steal: 0.002,
    age_days: 0,
    pools: &[],
    sites: &[],
};

/// The fleet.
pub(crate) const SERVERS: [Server; 10] = [
    // Grows.
    Server {
        name: "web-1",
        labels: "provider=northcloud plan=medium hypervisor=hv-1 team=hosting",
        cpu: 0.74,
        growth: 0.006,
        used: 0.36,
        pools: &[pool("www", 30.0, 12.0, 64.0)],
        sites: &[
            site("bakery.example", 0, "bakery", 1.6),
            site("florist.example", 0, "florist", 0.9),
            site("garage.example", 0, "garage", 0.4),
            site("choir.example", 0, "choir", 0.05),
        ],
        ..PLAIN
    },
    // Its memory is too small.
    Server {
        name: "web-2",
        labels: "provider=northcloud plan=small hypervisor=hv-1 team=hosting",
        vcpu: 2.0,
        memory: 4.0 * GIB,
        disk: 80.0 * GB,
        cpu: 0.52,
        used: 0.66,
        full: 0.55,
        pools: &[pool("www", 24.0, 11.0, 96.0)],
        sites: &[
            site("dentist.example", 0, "dentist", 0.7),
            site("gallery.example", 0, "gallery", 0.8),
            site("museum.example", 0, "museum", 0.6),
        ],
        ..PLAIN
    },
    // A pool that is set too small.
    Server {
        name: "web-3",
        labels: "provider=northcloud plan=medium hypervisor=hv-1 team=shops",
        cpu: 0.48,
        pools: &[pool("shop", 10.0, 8.6, 72.0), pool("blog", 20.0, 3.0, 60.0)],
        sites: &[
            site("bikes.example", 0, "bikes", 2.4),
            site("teashop.example", 0, "teashop", 1.3),
            site("travel-blog.example", 1, "travel", 0.5),
        ],
        ..PLAIN
    },
    // Three on a hypervisor that has sold more than it has.
    Server {
        name: "web-4",
        labels: "provider=lakehost plan=v4 hypervisor=hv-2 team=hosting",
        disk: 120.0 * GB,
        cpu: 0.46,
        steal: 0.14,
        pools: &[pool("www", 30.0, 9.0, 60.0)],
        sites: &[
            site("soccer.example", 0, "club", 1.1),
            site("tickets.example", 0, "club", 0.9),
            site("law-office.example", 0, "lawoffice", 0.2),
        ],
        ..PLAIN
    },
    Server {
        name: "web-5",
        labels: "provider=lakehost plan=v4 hypervisor=hv-2 team=hosting",
        disk: 120.0 * GB,
        cpu: 0.40,
        steal: 0.11,
        pools: &[pool("www", 30.0, 7.0, 60.0)],
        sites: &[site("radio.example", 0, "radio", 1.2), site("podcast.example", 0, "radio", 0.4)],
        ..PLAIN
    },
    Server {
        name: "web-6",
        labels: "provider=lakehost plan=v4 hypervisor=hv-2 team=shops",
        disk: 120.0 * GB,
        cpu: 0.35,
        steal: 0.09,
        pools: &[pool("www", 20.0, 5.0, 70.0)],
        sites: &[site("wine.example", 0, "wine", 0.8), site("cheese.example", 0, "wine", 0.5)],
        ..PLAIN
    },
    // Far too large.
    Server {
        name: "web-7",
        labels: "provider=northcloud plan=xlarge hypervisor=hv-3 team=agency",
        vcpu: 16.0,
        memory: 32.0 * GIB,
        disk: 360.0 * GB,
        cpu: 0.08,
        used: 0.09,
        full: 0.12,
        pools: &[pool("www", 60.0, 4.0, 60.0)],
        sites: &[
            site("agency.example", 0, "agency", 0.4),
            site("portfolio.example", 0, "agency", 0.1),
        ],
        ..PLAIN
    },
    // Its disk fills.
    Server {
        name: "web-8",
        labels: "provider=northcloud plan=medium hypervisor=hv-3 team=agency",
        cpu: 0.38,
        full: 0.83,
        fills: 1.35 * GB,
        pools: &[pool("www", 30.0, 8.0, 64.0)],
        sites: &[
            site("photos.example", 0, "photos", 0.9),
            site("archive.example", 0, "photos", 0.3),
        ],
        ..PLAIN
    },
    // One site with a bad plugin, and a PHP that keeps falling over.
    Server {
        name: "web-9",
        labels: "provider=northcloud plan=medium hypervisor=hv-3 team=agency",
        cpu: 0.42,
        pools: &[pool("www", 30.0, 9.0, 64.0), pool("legacy", 10.0, 2.0, 80.0)],
        sites: &[
            site("recipes.example", 0, "recipes", 1.0),
            site("garden.example", 0, "garden", 0.8),
            site("intranet.example", 1, "agency", 0.3),
        ],
        ..PLAIN
    },
    // New.
    Server {
        name: "web-10",
        labels: "provider=northcloud plan=medium hypervisor=hv-3 team=shops",
        cpu: 0.30,
        age_days: 5,
        pools: &[pool("www", 30.0, 6.0, 64.0)],
        sites: &[site("outdoor.example", 0, "outdoor", 1.0)],
        ..PLAIN
    },
];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All children of a pool are busy, while memory is free.
    Exhausted(usize),
    /// Memory is full, and the kernel kills.
    Oom,
    /// The hypervisor takes the processors away.
    Steal,
    /// A plugin of a site uses up what PHP allows a request.
    Plugin(usize),
    /// The service of a pool is down.
    Service(usize),
    /// Nothing comes from the server.
    Silence,
}

/// Something that goes wrong on a server for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Episode {
    pub(crate) server: usize,
    /// First second and the one after the last.
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) kind: Kind,
}

/// (server, days before the end, minute of that day, minutes, kind)
type Row = (usize, i64, i64, i64, Kind);

/// The episodes of a past that ends at `end`, a second; oldest first.
pub(crate) fn episodes(end: i64) -> Vec<Episode> {
    use Kind::{Exhausted, Oom, Plugin, Service, Silence, Steal};
    let mut rows: Vec<Row> = vec![
        (2, 40, 1172, 14, Exhausted(0)),
        (2, 33, 1190, 22, Exhausted(0)),
        (2, 26, 1165, 9, Exhausted(0)),
        (2, 19, 1201, 31, Exhausted(0)),
        (2, 12, 1178, 18, Exhausted(0)),
        (2, 10, 1215, 12, Exhausted(0)),
        (2, 5, 1183, 26, Exhausted(0)),
        (2, 3, 1200, 17, Exhausted(0)),
        (1, 37, 645, 4, Oom),
        (1, 29, 702, 6, Oom),
        (1, 16, 858, 3, Oom),
        (1, 9, 633, 7, Oom),
        (1, 6, 690, 5, Oom),
        (1, 2, 871, 8, Oom),
        (0, 11, 192, 9, Service(0)),
        (6, 22, 95, 35, Silence),
    ];
    for (days, minute, minutes) in [(30, 1210, 12), (13, 1232, 16), (4, 1224, 21)] {
        rows.extend((3..6).map(|server| (server, days, minute, minutes, Steal)));
    }
    for (ix, days) in [38, 35, 31, 24, 18, 13, 11, 8, 7, 4, 1].into_iter().enumerate() {
        rows.push((8, days, 480 + 67 * ix as i64, 3 + ix as i64 % 5, Plugin(1)));
    }
    for days in [12, 8, 6, 2] {
        rows.extend((0..3).map(|n| (8, days, 905 + 11 * n, 2, Service(1))));
    }
    let day0 = end.div_euclid(86_400) * 86_400;
    let made = rows.into_iter().map(|(server, days, minute, minutes, kind)| {
        let from = day0 - days * 86_400 + minute * 60;
        Episode { server, from, to: from + minutes * 60, kind }
    });
    let mut all: Vec<Episode> = made.filter(|episode| episode.to + 1800 < end).collect();
    all.sort_by_key(|episode| (episode.from, episode.server));
    all
}
