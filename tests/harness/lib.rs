//! Starts real programs and servers for the tests, each in its own directory, and always stops them.
//!
//! Everything listens on loopback only, on an address of its own, and dies in `Drop`: a test that
//! panics leaves no process behind. Nothing here sleeps for a result; [`eventually`] polls.

mod alertmanager;
mod apache;
mod backend;
mod caddy;
mod cgroup;
mod chromium;
mod clock;
mod db;
mod disk;
mod fed;
mod feed;
mod fleet;
mod haproxy;
mod http;
mod incident;
mod lighttpd;
mod load;
mod names;
mod netns;
mod nginx;
mod php;
mod process;
mod root;
mod schema;
mod smtp;
mod standin;
mod stores;
mod systemd;
mod told;
mod varnish;
mod wait;
mod webhook;

pub use alertmanager::Alertmanager;
pub use apache::Apache;
pub use backend::{Backends, Fault, ProxySite, Upstream};
pub use caddy::Caddy;
pub use cgroup::Cgroup;
pub use chromium::{Chromium, Scheme};
pub use clock::{instant, now_ms, now_s};
pub use db::{Counts, Db, Held, Sample, Signals};
pub use disk::SmallDisk;
pub use fed::{FedServer, Traffic};
pub use feed::LogFeed;
pub use fleet::{Agent, AgentSpec, Fleet, FleetBuilder, Output, program};
pub use haproxy::{Haproxy, HaproxyLog};
pub use incident::Incident;
pub use lighttpd::Lighttpd;
pub use load::{Load, Seen, Volley, get, get_and_hang_up};
pub use names::NameServer;
pub use netns::Machine;
pub use nginx::{Nginx, UpstreamGroup, Vhost};
pub use php::{PhpFpm, Pool};
pub use process::{Process, find_program, is_root};
pub use root::{Root, loopback};
pub use smtp::{Mail, Smtp};
pub use standin::{Request, StandIn};
pub use stores::{Mariadb, Memcached, Redis};
pub use systemd::Systemd;
pub use told::Told;
pub use varnish::{NcsaFormat, Varnish};
pub use wait::{eventually, pause};
pub use webhook::{Delivery, Reply, WEBHOOK_SECRET, Webhook};
