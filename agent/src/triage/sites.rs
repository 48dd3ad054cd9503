//! The sites of a scan by the bytes a line names them with. Bounded, whatever the lines say.
//!
//! A host is looked up by its raw bytes in a table of fixed size; only a spelling seen for the first
//! time is brought into its normal form. What does not fit into the table is looked up each time.

use std::collections::HashMap;

use crate::logs::join::OTHER;
use crate::logs::sites::{could_be_host, normal_host};

/// Index of the bucket for hosts over the limit, and for what no client can have meant as a host.
pub(super) const OTHER_SITE: u32 = 0;
/// Spellings the table has room for: a power of two.
const SLOTS: usize = 8192;
/// Neighbouring slots looked at; nobody can make a lookup longer by choosing hosts.
const PROBES: usize = 4;
/// Longest spelling the table keeps.
const SPELLING_BYTES_MAX: usize = 56;

/// One spelling of a host, a cache line long.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Slot {
    /// 0 = free.
    len: u32,
    site: u32,
    bytes: [u8; SPELLING_BYTES_MAX],
}

const FREE: Slot = Slot { len: 0, site: 0, bytes: [0; SPELLING_BYTES_MAX] };

/// See the module. Indices are stable; the table only grows, up to its limit.
pub(super) struct Sites {
    names: Vec<Box<str>>,
    by_name: HashMap<Box<str>, u32>,
    slots: Box<[Slot]>,
    /// Host of the line before; most lines of a visit follow each other.
    last: Slot,
    limit: usize,
}

impl Sites {
    /// At most `limit` sites beside `other`.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            names: vec![OTHER.into()],
            by_name: HashMap::from([(OTHER.into(), OTHER_SITE)]),
            slots: vec![FREE; SLOTS].into(),
            last: FREE,
            limit,
        }
    }

    /// The site of a host as a line writes it; not empty.
    #[inline]
    pub(super) fn of_host(&mut self, host: &[u8]) -> u32 {
        if self.last.bytes.get(..self.last.len as usize) == Some(host) {
            return self.last.site;
        }
        self.look_up(host)
    }

    fn look_up(&mut self, host: &[u8]) -> u32 {
        if host.len() > SPELLING_BYTES_MAX {
            return self.of_spelling(host);
        }
        let at = hash(host) as usize;
        for probe in 0..PROBES {
            let slot = (at + probe) % SLOTS;
            let known = &self.slots[slot];
            if known.len == 0 {
                let site = self.of_spelling(host);
                let mut new = FREE;
                new.bytes[..host.len()].copy_from_slice(host);
                (new.len, new.site) = (host.len() as u32, site);
                self.slots[slot] = new;
                self.last = new;
                return site;
            }
            if known.bytes[..known.len as usize] == *host {
                self.last = *known;
                return known.site;
            }
        }
        self.of_spelling(host)
    }

    #[cold]
    fn of_spelling(&mut self, host: &[u8]) -> u32 {
        let text = String::from_utf8_lossy(host);
        let name = normal_host(&text);
        if could_be_host(&name) { self.named(&name) } else { OTHER_SITE }
    }

    /// The site with this name, made when it is new; `other` when there are too many.
    pub(super) fn named(&mut self, name: &str) -> u32 {
        if let Some(site) = self.by_name.get(name) {
            return *site;
        }
        if self.names.len() > self.limit {
            return OTHER_SITE;
        }
        let site = self.names.len() as u32;
        self.names.push(name.into());
        self.by_name.insert(name.into(), site);
        site
    }

    /// The site with this name, if a line named it.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn name(&self, site: u32) -> &str {
        &self.names[site as usize]
    }

    /// Number of sites with the bucket `other`.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

/// Eight bytes at a time; good enough where the length of a lookup is bounded anyway.
fn hash(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(ODD);
    }
    for byte in words.remainder() {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(ODD);
    }
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_host_is_one_site() {
        let mut sites = Sites::new(10);
        let a = sites.of_host(b"a.example");
        for spelling in ["A.Example", "a.example:8443", "a.example.", "a.example", "a.example"] {
            assert_eq!(sites.of_host(spelling.as_bytes()), a, "{spelling}");
        }
        let long = format!("{}.example", "x".repeat(100));
        let long_site = sites.of_host(long.as_bytes());
        assert_eq!(sites.of_host(long.to_uppercase().as_bytes()), long_site);
        assert_eq!((sites.name(a), sites.name(long_site)), ("a.example", &*long));
        assert_eq!(sites.find("a.example"), Some(a));
        for stranger in [&b"a b"[..], b"\x1b[31m", b"other"] {
            assert_eq!(sites.of_host(stranger), OTHER_SITE, "{stranger:?}");
        }
        assert_eq!(sites.len(), 3);
    }

    #[test]
    fn more_hosts_than_the_limit_are_other_and_the_known_ones_stay() {
        let mut sites = Sites::new(2000);
        let host = |n: u32| format!("host-{n}.example").into_bytes();
        let first: Vec<u32> = (0..50_000).map(|n| sites.of_host(&host(n))).collect();
        let second: Vec<u32> = (0..50_000).map(|n| sites.of_host(&host(n))).collect();
        assert_eq!(first, second);
        assert_eq!(first.iter().filter(|site| **site == OTHER_SITE).count(), 48_000);
        assert_eq!(sites.len(), 2001);
    }
}
