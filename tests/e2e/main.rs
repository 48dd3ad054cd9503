//! Tests across both programs on real servers.
