//! What was sent, sample by sample and count by count, for tests that compute reports anew.
//!
//! Lines, tabs between: `series N SERVER METRIC ATTRIBUTE` names a number, `s N MS VALUE` is a sample in the
//! scale of the catalog; `site N SERVER NAME POOL OWNER` and `c N SECOND STATUS COUNT` likewise. SERVER is
//! `NUMBER:NAME`: of two servers with one name each has a number. `forgotten SERVER`: its history is nobody's.
//! `e N SECOND TEXT` is a gateway error of a site that was kept whole, `l SERVER SECOND TEXT` a line of
//! evidence, `u SERVER UNIT SECOND STATE RESTARTS RESULT` the state of a service and how its last run ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use wire::v1::BatchBody;

use crate::feeder::Failed;

/// The file.
pub(crate) struct Truth {
    out: BufWriter<File>,
    series: HashMap<(usize, String, String), usize>,
    sites: HashMap<(usize, String), usize>,
    names: HashMap<usize, String>,
}

impl Truth {
    /// Makes it.
    pub(crate) fn create(path: &Path) -> Result<Self, Failed> {
        let out = BufWriter::new(File::create(path)?);
        let (series, sites, names) = (HashMap::new(), HashMap::new(), HashMap::new());
        Ok(Self { out, series, sites, names })
    }

    /// Tells what a body holds.
    pub(crate) fn tell(
        &mut self,
        server: usize,
        name: &str,
        body: &BatchBody,
    ) -> Result<(), Failed> {
        self.names.entry(server).or_insert_with(|| name.to_owned());
        let mut series = Vec::new();
        for one in &body.series {
            let key = (server, one.metric.clone(), one.attribute.clone());
            let n = self.series.len();
            let no = *self.series.entry(key).or_insert(n);
            if no == n {
                let (metric, attribute) = (&one.metric, &one.attribute);
                writeln!(self.out, "series\t{no}\t{server}:{name}\t{metric}\t{attribute}")?;
            }
            series.push(no);
        }
        let mut sites = Vec::new();
        for site in &body.sites {
            let n = self.sites.len();
            let no = *self.sites.entry((server, site.name.clone())).or_insert(n);
            if no == n {
                let (site, pool, owner) = (&site.name, &site.pool, &site.owner);
                writeln!(self.out, "site\t{no}\t{server}:{name}\t{site}\t{pool}\t{owner}")?;
            }
            sites.push(no);
        }
        for tick in &body.ticks {
            for (ix, value) in tick.series.iter().zip(&tick.value) {
                writeln!(self.out, "s\t{}\t{}\t{value}", series[*ix as usize], tick.at_unix_ms)?;
            }
        }
        for second in &body.seconds {
            let (no, at) = (sites[second.site as usize], second.second);
            for (status, n) in second.status.iter().zip(&second.count) {
                writeln!(self.out, "c\t{no}\t{at}\t{status}\t{n}")?;
            }
        }
        self.events(&format!("{server}:{name}"), &sites, body)
    }

    fn events(&mut self, server: &str, sites: &[usize], body: &BatchBody) -> Result<(), Failed> {
        for one in &body.exemplars {
            let (no, at) = (sites[one.site as usize], one.at_unix_ms.div_euclid(1000));
            let message = one.message.as_deref().unwrap_or_default();
            writeln!(self.out, "e\t{no}\t{at}\t{} {message}", one.path)?;
        }
        for line in &body.log_lines {
            let at = line.at_unix_ms.div_euclid(1000);
            writeln!(self.out, "l\t{server}\t{at}\t{}", line.message)?;
        }
        for service in &body.services {
            let (unit, at) = (&service.unit, service.at_unix_ms.div_euclid(1000));
            let (state, n) = (&service.state, service.n_restarts.unwrap_or(0));
            let ended = &service.result;
            writeln!(self.out, "u\t{server}\t{unit}\t{at}\t{state}\t{n}\t{ended}")?;
        }
        Ok(())
    }

    /// Tells that a server was forgotten.
    pub(crate) fn forget(&mut self, server: usize) -> Result<(), Failed> {
        let name = self.names.get(&server).map_or("", String::as_str);
        Ok(writeln!(self.out, "forgotten\t{server}:{name}")?)
    }

    /// All of it is in the file.
    pub(crate) fn flush(&mut self) -> Result<(), Failed> {
        Ok(self.out.flush()?)
    }
}
