//! A damaged database at start: the newest backup that was made by itself takes its place.
//!
//! Day and month files stay. What they have of later than the backup is cut out, and kept aside: agents
//! send the last two hours anew, and ids given since then name something else by now.

use std::io::{BufReader, sink};
use std::path::Path;

use super::archive::{pour, read_archive};
use super::place::{self, Plan};
use super::{BackupError, DATABASE, Manifest, restore, schedule};
use crate::clock;

/// File that the writer leaves when it meets damage: the next start looks closer.
pub(in super::super) const MARKER: &str = "gatewatch.db.damaged";

/// Puts the newest backup below `backups` in the place of the damaged database in `dir`, which is moved
/// aside. Without one it says what to type, and changes nothing.
pub fn mend(dir: &Path, backups: Option<&Path>, why: &str) -> Result<Manifest, BackupError> {
    let _lock = restore::lock(dir)?;
    let mut found = backups.map(schedule::archives).unwrap_or_default();
    while let Some((_, file)) = found.pop() {
        match mend_with(dir, &file, why) {
            Ok(manifest) => return Ok(manifest),
            Err(error) => {
                place::give_up(dir);
                let (what, file) = (error.what, file.display());
                tracing::error!(what, %file, "this backup cannot be used; the one before it is tried");
            }
        }
    }
    let shown = dir.display();
    let what = format!("{}: the database is damaged: {why}", dir.join(DATABASE).display());
    let fix = format!(
        "restore a backup with `gatewatch-collector restore FILE --force`, which keeps the damaged one; \
         or start anew without history and enrolled agents with `mv {shown} {shown}.damaged`"
    );
    Err(BackupError::new(what, fix))
}

fn mend_with(dir: &Path, file: &Path, why: &str) -> Result<Manifest, BackupError> {
    let to = place::begin(dir)?;
    let opened = std::fs::File::open(file).map_err(|error| BackupError::file(file, &error))?;
    // The authority and the token as well where they are gone.
    let wanted = |name: &str| {
        let top = name.split('/').next().unwrap_or_default();
        name == DATABASE || (["ca", "admin.token"].contains(&top) && !dir.join(top).exists())
    };
    let mut members: Vec<String> = Vec::new();
    let manifest = read_archive(BufReader::with_capacity(1 << 20, opened), &mut |name, entry| {
        if !wanted(name) {
            let read = pour(entry, &mut sink());
            return read.map_err(|error| BackupError::bad(format!("it is damaged: {error}")));
        }
        let top = name.split('/').next().unwrap_or_default().to_owned();
        if !members.contains(&top) {
            members.push(top);
        }
        restore::write(&to.join(name), entry)
    })?;
    if manifest.schema > super::super::open::MIGRATIONS.len() as i64 {
        return Err(BackupError::usage("it was made by a later release", "install that release"));
    }
    let mut replaced: Vec<String> =
        ["gatewatch.db-wal", "gatewatch.db-shm", MARKER].map(str::to_owned).to_vec();
    replaced.extend(members.iter().cloned());
    let now = clock::now();
    let aside = place::dated(dir, "damaged", now);
    let plan = Plan { aside, replaced, members, keeps_days: true };
    let done = place::commit(dir, &plan)?;
    tracing::error!(
        why,
        backup = %file.display(),
        made_at = %manifest.made_at,
        damaged = %done.aside.unwrap_or_default().display(),
        n_parts_cut = done.n_parts_cut,
        "the database was damaged: the newest backup took its place. What came after it is sent again by \
         agents as far as they keep it, two hours; incidents, notes and settings of after it are missing"
    );
    Ok(manifest)
}
