//! Why requests failed and on which upstream, per site. Pure and bounded.

use std::collections::{BTreeMap, HashMap};

use wire::v1::Signal;

use super::tally::Range;
use crate::logs::join::OTHER;

/// Addresses of upstreams that are told apart; further ones are `other`.
const ADDRESSES_MAX: usize = 2000;
/// Upstreams told apart per site.
const UPSTREAMS_MAX: usize = 32;
const ADDRESS_BYTES_MAX: usize = 128;

/// Upstream addresses by a small number; 0 is `other`.
pub(super) struct Addresses {
    names: Vec<Box<str>>,
    by_name: HashMap<Box<str>, u32>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { names: vec![OTHER.into()], by_name: HashMap::new() }
    }
}

impl Addresses {
    pub(super) fn index(&mut self, address: &str) -> u32 {
        let mut end = address.len().min(ADDRESS_BYTES_MAX);
        while !address.is_char_boundary(end) {
            end -= 1;
        }
        let address = &address[..end];
        if let Some(index) = self.by_name.get(address) {
            return *index;
        }
        if self.names.len() > ADDRESSES_MAX {
            return 0;
        }
        let index = self.names.len() as u32;
        self.names.push(address.into());
        self.by_name.insert(address.into(), index);
        index
    }

    pub(super) fn name(&self, index: u32) -> &str {
        &self.names[index as usize]
    }
}

/// How often each of a few upstreams failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Upstreams(Vec<(u32, u64)>);

impl Upstreams {
    pub(super) fn add(&mut self, index: u32) {
        self.add_n(index, 1);
    }

    fn add_n(&mut self, index: u32, n: u64) {
        let is_full = self.0.len() >= UPSTREAMS_MAX;
        let known = self.0.iter().any(|(known, _)| *known == index);
        // The bucket always finds room.
        let index = if is_full && !known { 0 } else { index };
        match self.0.iter_mut().find(|(known, _)| *known == index) {
            Some((_, sum)) => *sum += n,
            None => self.0.push((index, n)),
        }
    }

    pub(super) fn merge(&mut self, more: &Self) {
        more.0.iter().for_each(|(index, n)| self.add_n(*index, *n));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn named(&self, addresses: &Addresses) -> BTreeMap<String, u64> {
        self.0.iter().map(|(index, n)| (addresses.name(*index).to_owned(), *n)).collect()
    }
}

/// How often each signal was seen; there are 25 of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Signals(BTreeMap<i32, u64>);

impl Signals {
    pub(super) fn add(&mut self, signal: Signal) {
        *self.0.entry(signal as i32).or_default() += 1;
    }

    pub(super) fn merge(&mut self, more: &Self) {
        more.0.iter().for_each(|(signal, n)| *self.0.entry(*signal).or_default() += n);
    }

    pub(super) fn named(&self) -> BTreeMap<&'static str, u64> {
        let name = |number: i32| Signal::try_from(number).ok().and_then(Signal::name);
        let named = self.0.iter().map(|(number, n)| (name(*number).unwrap_or(OTHER), *n));
        named.collect()
    }
}

/// Why requests of one site failed, as access lines tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Faults {
    pub(super) signals: Signals,
    pub(super) upstreams: Upstreams,
}

/// The same as error lines tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FaultGroup {
    /// Lines of failed upstream requests.
    pub(super) n_lines: u64,
    pub(super) faults: Faults,
    pub(super) lines: Range,
}

impl FaultGroup {
    pub(super) fn note(
        &mut self,
        second: Option<i64>,
        is_gateway: bool,
        signal: Option<Signal>,
        address: Option<u32>,
    ) {
        self.faults.signals.add(signal.unwrap_or(Signal::Other));
        if !is_gateway {
            return;
        }
        self.n_lines += 1;
        if let Some(second) = second {
            self.lines.note(second);
        }
        if let Some(address) = address {
            self.faults.upstreams.add(address);
        }
    }

    pub(super) fn merge(&mut self, more: &Self) {
        self.n_lines += more.n_lines;
        self.lines.add(&more.lines);
        self.faults.signals.merge(&more.faults.signals);
        self.faults.upstreams.merge(&more.faults.upstreams);
    }
}

/// Error lines by the host and the server they name: only when all logs are read it is known which
/// of both the access logs call a site.
pub(super) struct FaultGroups {
    groups: HashMap<(Box<str>, Box<str>), FaultGroup>,
    /// Lines that name neither, as those of Apache or of a whole machine.
    pub(super) nameless: FaultGroup,
    /// Lines of more names than the limit.
    pub(super) other: FaultGroup,
    limit: usize,
}

impl FaultGroups {
    pub(super) fn new(limit: usize) -> Self {
        let (nameless, other) = Default::default();
        Self { groups: HashMap::new(), nameless, other, limit }
    }

    /// The group of a line; empty = the line does not say.
    pub(super) fn of(&mut self, host: &str, server: &str) -> &mut FaultGroup {
        if host.is_empty() && matches!(server, "" | "_") {
            return &mut self.nameless;
        }
        let key = (Box::from(host), Box::from(server));
        let is_full = self.groups.len() >= self.limit;
        if is_full && !self.groups.contains_key(&key) {
            return &mut self.other;
        }
        self.groups.entry(key).or_default()
    }

    /// All groups with host and server, in the order of their names.
    pub(super) fn sorted(&self) -> Vec<(&str, &str, &FaultGroup)> {
        let mut all: Vec<_> =
            self.groups.iter().map(|((host, server), group)| (&**host, &**server, group)).collect();
        all.sort_by_key(|(host, server, _)| (*host, *server));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_over_the_limit_are_other() {
        let mut addresses = Addresses::default();
        let mut upstreams = Upstreams::default();
        for n in 0..10_000 {
            upstreams.add(addresses.index(&format!("10.0.{}.{}:80", n / 250, n % 250)));
        }
        upstreams.add(addresses.index("10.0.0.0:80"));
        let named = upstreams.named(&addresses);
        assert_eq!(named.values().sum::<u64>(), 10_001);
        assert_eq!(named["10.0.0.0:80"], 2);
        assert_eq!(named[OTHER], 10_000 - UPSTREAMS_MAX as u64);
        assert_eq!(addresses.names.len(), ADDRESSES_MAX + 1);
        let long = "\u{e4}".repeat(1000);
        assert!(Addresses::default().index(&long) == 1, "a long address is cut between letters");
    }

    #[test]
    fn error_lines_of_too_many_names_are_kept_together() {
        let mut groups = FaultGroups::new(2);
        for host in ["a", "b", "c", "d", "a", "", ""] {
            groups.of(host, "").note(Some(1), true, Some(Signal::Reset), None);
        }
        assert_eq!((groups.nameless.n_lines, groups.other.n_lines), (2, 2));
        let sorted: Vec<_> = groups.sorted().iter().map(|g| (g.0, g.2.n_lines)).collect();
        assert_eq!(sorted, [("a", 2), ("b", 1)]);
    }
}
