//! Tests across both programs on real servers. Each starts its own servers on loopback and stops them.

mod farm;
mod faults;

mod apache;
mod bad_input;
mod cli;
mod crash;
mod incident;
mod install;
mod ledger;
mod odd_logs;
mod outage;
mod pipeline;
mod proxies;
mod quickstart;
mod rotation;
mod scan;
mod servers;
