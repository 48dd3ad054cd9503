//! Connection tracking: how full its table is, and what it had to turn away.
//!
//! A full table drops new connections without a word to anybody, between gateway and backend too.

use super::procfile::ProcFile;
use super::{Detail, Values, push};

/// Files of the module; a machine without it says so once.
#[derive(Debug)]
pub(crate) struct Conntrack {
    count: ProcFile,
    max: ProcFile,
    stat: ProcFile,
}

impl Conntrack {
    pub(crate) fn new() -> Self {
        Self {
            count: ProcFile::new("/proc/sys/net/netfilter/nf_conntrack_count"),
            max: ProcFile::optional("/proc/sys/net/netfilter/nf_conntrack_max"),
            // Some kernels are built without it although they track.
            stat: ProcFile::optional("/proc/net/stat/nf_conntrack"),
        }
    }

    pub(crate) fn sample(&mut self, detail: Detail, out: &mut Values) {
        let Some(count) = self.count.read_number() else { return };
        let max = self.max.read_number().filter(|max| *max > 0);
        if let Some(max) = max {
            let ratio = (count as f64 / max as f64).min(1.0);
            push(out, "system.conntrack.utilization", ratio);
        }
        if detail == Detail::Core {
            return;
        }
        push(out, "system.conntrack.count", count as f64);
        if let Some(max) = max {
            push(out, "system.conntrack.limit", max as f64);
        }
        let Some(text) = self.stat.read() else { return };
        for (metric, column) in [
            ("system.conntrack.drops", "drop"),
            ("system.conntrack.insert_failed", "insert_failed"),
        ] {
            if let Some(n) = sum_column(text, column) {
                push(out, metric, n as f64);
            }
        }
    }
}

/// Sum of a column over all processors: a line of names, then a line of hexadecimal numbers each.
fn sum_column(text: &str, column: &str) -> Option<u64> {
    let mut lines = text.lines();
    let at = lines.next()?.split_ascii_whitespace().position(|name| name == column)?;
    let number = |line: &str| u64::from_str_radix(line.split_ascii_whitespace().nth(at)?, 16).ok();
    let mut numbers = lines.filter_map(number).peekable();
    numbers.peek()?;
    Some(numbers.fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_added_over_processors() {
        let check = |text: &str, column: &str, want| {
            assert_eq!(sum_column(text, column), want, "{column} of {text:?}");
        };
        let el7 = "entries  searched found new invalid ignore delete delete_list insert \
                   insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete \
                   search_restart\n\
                   00000123  0000000a 00000000 00000000 00000007 00000000 00000000 00000000 00000000 \
                   0000000f 00000010 00000001 00000000  00000000 00000000 00000000 00000000\n\
                   00000123  0000000a 00000000 00000000 00000007 00000000 00000000 00000000 00000000 \
                   00000001 ffffffff 00000001 00000000  00000000 00000000 00000000 00000000\n";
        check(el7, "insert_failed", Some(16));
        check(el7, "drop", Some(0x1_0000_000f));
        check(el7, "chainlength", None);
        let v6 = "entries  clashres found new invalid ignore delete chainlength insert \
                  insert_failed drop\n1 2 3 4 5 6 7 8 9 a b\n";
        check(v6, "drop", Some(11));
        check("entries drop\n", "drop", None);
        check("entries drop\n1\n1 zz\n", "drop", None);
        check("", "drop", None);
    }
}
