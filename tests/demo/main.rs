//! The simulated fleet of the quickstart's demo.

fn main() {}
