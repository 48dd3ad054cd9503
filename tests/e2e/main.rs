//! Tests across both programs on real servers. Each starts its own servers on loopback and stops them.

mod servers;
