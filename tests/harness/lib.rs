//! Starts real programs and servers for the tests, each in its own directory, and always stops them.
//!
//! Everything listens on loopback only, on an address of its own, and dies in `Drop`: a test that
//! panics leaves no process behind. Nothing here sleeps for a result; [`eventually`] polls.

mod apache;
mod clock;
mod db;
mod feed;
mod fleet;
mod incident;
mod load;
mod nginx;
mod php;
mod process;
mod root;
mod wait;
mod webhook;

pub use apache::Apache;
pub use clock::{instant, now_ms, now_s};
pub use db::{Counts, Db};
pub use feed::LogFeed;
pub use fleet::{Agent, AgentSpec, Fleet, FleetBuilder, Output, program};
pub use incident::Incident;
pub use load::{Load, Seen, get, get_and_hang_up};
pub use nginx::{Nginx, Vhost};
pub use php::{PhpFpm, Pool};
pub use process::{Process, find_program, is_root};
pub use root::{Root, loopback};
pub use wait::{eventually, pause};
pub use webhook::{Delivery, Webhook};
