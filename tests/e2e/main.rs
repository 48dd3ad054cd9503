//! Tests across both programs on real servers. Each starts its own servers on loopback and stops them.

mod farm;
mod faults;

mod apache;
mod bad_input;
mod chains;
mod changes;
mod cli;
mod clients;
mod crash;
mod evidence;
mod guest;
mod incident;
mod install;
mod ledger;
mod localize;
mod new_vhosts;
mod odd_logs;
mod outage;
mod php_pools;
mod pipeline;
mod pools;
mod proxies;
mod quickstart;
mod replay;
mod resources;
mod rotation;
mod said;
mod sandbox;
mod scan;
mod servers;
mod services;
mod services_systemd;
mod silence;
mod upstream_groups;
mod upstreams;
