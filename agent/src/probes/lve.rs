//! The agent's own LVE on CloudLinux: what limits the account it runs in.
//!
//! /proc/lve/list is a table with tabs, its first line names the columns and begins with the version
//! of the format: `10:LVE  lCPU  lCPUW  nCPU  lEP  lNPROC  lMEM  lMEMPHY ... EP  CPU  MEM ... fMEM`.
//! `l` is a limit, `f` counts what was refused, no letter is what is used. A limit of 0 is none.
//! Processor limits are in 1/10000 of one, processor time is in ns, memory in pages. A row begins
//! with the account, in later versions `reseller,account`; the account is the user's number.

use std::path::Path;

use super::container::Reading;
use super::procfile::ProcFile;

/// Processor limits are parts of this.
const CPU_PARTS: f64 = 10_000.0;

/// The table, where there is one.
#[derive(Debug)]
pub(crate) struct Lve {
    list: Option<ProcFile>,
    /// The user's number, which is that of the LVE.
    id: u32,
    page_bytes: u64,
    /// Looked into at the first reading and at every refresh: only inside an LVE at each.
    is_inside: bool,
}

impl Lve {
    pub(crate) fn new(root: &Path, id: u32) -> Self {
        let path = root.join("proc/lve/list");
        let list = path.exists().then(|| ProcFile::new(path));
        Self { list, id, page_bytes: procfs::page_size(), is_inside: true }
    }

    /// Looks again whether this user is limited, at the next reading.
    pub(crate) fn refresh(&mut self) {
        self.is_inside = true;
    }

    /// What is used now; `None` outside of an LVE.
    pub(crate) fn read(&mut self) -> Option<Reading> {
        if !self.is_inside || self.id == 0 {
            return None; // number 0 is the machine itself
        }
        let text = self.list.as_mut()?.read();
        let reading = text.and_then(|text| parse_list(text, self.id, self.page_bytes));
        self.is_inside = reading.is_some();
        reading
    }
}

/// The row of one account.
fn parse_list(text: &str, id: u32, page_bytes: u64) -> Option<Reading> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split('\t').map(str::trim).collect();
    let row = lines.find_map(|line| {
        // A field may be empty: blanks do not separate.
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let account = fields.first()?.rsplit(',').next()?;
        (account.parse() == Ok(id)).then_some(fields)
    })?;
    let number = |name: &str| {
        let at = names.iter().position(|known| *known == name)?;
        row.get(at)?.parse::<u64>().ok()
    };
    let limit = |name: &str| number(name).filter(|limit| *limit > 0);
    let bytes = |pages: u64| pages.saturating_mul(page_bytes);
    Some(Reading {
        memory_limit: limit("lMEMPHY").map(bytes),
        memory_used: number("MEMPHY").map(bytes),
        n_memory_failures: number("fMEMPHY"),
        cpu_limit: limit("lCPU").map(|parts| parts as f64 / CPU_PARTS),
        cpu_ns: number("CPU"),
        n_pids: number("NPROC"),
        pids_max: limit("lNPROC"),
        n_pids_failures: number("fNPROC"),
        n_entries: number("EP"),
        entries_max: limit("lEP"),
        n_entries_failures: number("fEP"),
        ..Reading::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V10: &str = "10:LVE\tlCPU\tlCPUW\tnCPU\tlEP\tlNPROC\tlMEM\tlMEMPHY\tEP\tCPU\tMEM\tfMEM\t\
        fEP\tMEMPHY\tfMEMPHY\tNPROC\tfNPROC\n\
        0,0\t\t10000\t100\t1\t40\t100\t0\t0\t0\t0\t0\t0\t0\t0\t0\t0\n\
        0,1010\t30000\t100\t3\t60\t0\t0\t786432\t1\t416185289379288\t0\t0\t2\t27241\t5\t3\t0\n\
        0,1004\t5000\t100\t2\t30\t80\t0\t262144\t12\t59560034260019\t0\t0\t7\t131072\t574\t43\t9\n";

    #[test]
    fn the_row_of_the_own_account_is_read_by_the_names_of_its_columns() {
        let want = Reading {
            memory_limit: Some(1 << 30),
            memory_used: Some(1 << 29),
            n_memory_failures: Some(574),
            cpu_limit: Some(0.5),
            cpu_ns: Some(59_560_034_260_019),
            n_pids: Some(43),
            pids_max: Some(80),
            n_pids_failures: Some(9),
            n_entries: Some(12),
            entries_max: Some(30),
            n_entries_failures: Some(7),
            ..Reading::default()
        };
        assert_eq!(parse_list(V10, 1004, 4096), Some(want));
        let unlimited = parse_list(V10, 1010, 4096).expect("it has a row");
        assert_eq!((unlimited.pids_max, unlimited.n_pids), (None, Some(3)));
        // An older format: other columns, and accounts without resellers.
        let v4 = "4:LVE\tEP\tlCPU\tCPU\tlEP\n501\t1\t2500\t77\t20\n";
        let old = parse_list(v4, 501, 4096).expect("it has a row");
        assert_eq!((old.cpu_limit, old.cpu_ns, old.memory_limit), (Some(0.25), Some(77), None));
    }

    #[test]
    fn who_is_in_no_lve_has_no_limit() {
        for text in ["", "10:LVE\tlCPU\n", "10:LVE\n\n\t\n,\n", "1004\n1004\n", V10] {
            let other = parse_list(text, 999, 4096);
            assert_eq!(other, None, "{text}");
        }
        assert_eq!(parse_list("4:LVE\tCPU\n7\tmany\n", 7, 4096), Some(Reading::default()));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lve::new(dir.path(), 1004).read(), None);
        std::fs::create_dir_all(dir.path().join("proc/lve")).unwrap();
        std::fs::write(dir.path().join("proc/lve/list"), V10).unwrap();
        assert!(Lve::new(dir.path(), 1004).read().is_some());
        let mut outside = Lve::new(dir.path(), 33);
        assert_eq!((outside.read(), outside.is_inside), (None, false));
        assert_eq!(Lve::new(dir.path(), 0).read(), None);
    }
}
