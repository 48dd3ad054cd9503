//! Writing and reading the tar of a backup.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use ring::digest::{Context, SHA256};
use tar::{Builder, EntryType, Header};
use wire::UnixMillis;

use super::copy::{self, Copy, Source};
use super::{
    BackupError, DATABASE, FORMAT, MANIFEST, MANIFEST_BYTES_MAX, MANIFEST_SUM, Manifest, Member,
    Sum, is_database, is_member,
};
use crate::{ca, clock};

/// Bytes moved at once.
const PIECE_BYTES: usize = 256 << 10;

/// Told how many bytes of how many are done, roughly.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// A backup that is about to be written: the database is copied already.
#[derive(Debug)]
pub struct Archive {
    source: Source,
    database: Copy,
    schema: i64,
    made_at: UnixMillis,
    names: Vec<String>,
    /// Size it will have, about.
    pub n_bytes: u64,
}

impl Archive {
    /// Copies the database and looks what else there is. Blocks; at most one at a time in a directory.
    pub fn prepare(source: Source) -> Result<Self, BackupError> {
        let made_at = clock::now();
        let (database, schema) = source.database()?;
        let names = copy::names(source.dir())?;
        let size =
            |name: &String| std::fs::metadata(source.dir().join(name)).map_or(0, |m| m.len());
        let n_bytes = database.n_bytes + names.iter().map(size).sum::<u64>();
        Ok(Self { source, database, schema, made_at, names, n_bytes })
    }

    /// Writes everything to `out`. Blocks as long as `out` does.
    pub fn write(
        self,
        out: &mut dyn Write,
        progress: &mut Progress<'_>,
    ) -> Result<Manifest, BackupError> {
        self.write_with(out, progress, &mut |_, _| Ok(None))
    }

    /// The same; what `beside` takes care of is only named in the archive. It is given a name and how to
    /// get a copy of it.
    pub(super) fn write_with(
        self,
        out: &mut dyn Write,
        progress: &mut Progress<'_>,
        beside: &mut KeepBeside<'_>,
    ) -> Result<Manifest, BackupError> {
        let mut tar = Tar::new(out, self.made_at);
        let mut manifest = Manifest {
            format: FORMAT,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            schema: self.schema,
            made_at: self.made_at,
            members: Vec::new(),
            expired: Vec::new(),
        };
        let database = tar.put(DATABASE, self.database.n_bytes, &mut self.database.open()?)?;
        manifest.members.push(database);
        drop(self.database);
        for name in &self.names {
            progress(tar.n_bytes, self.n_bytes);
            self.source.check_stop()?;
            if !is_database(name) {
                let path = self.source.dir().join(name);
                let mut file = File::open(&path).map_err(|e| BackupError::file(&path, &e))?;
                let meta = file.metadata().map_err(|e| BackupError::file(&path, &e))?;
                manifest.members.push(tar.put(name, meta.len(), &mut file)?);
                continue;
            }
            match beside(name, &self.source)? {
                Some(Beside::There(member)) => manifest.members.push(member),
                Some(Beside::Gone) => manifest.expired.push(name.clone()),
                None => match self.source.file(name)? {
                    Some(copy) => {
                        manifest.members.push(tar.put(name, copy.n_bytes, &mut copy.open()?)?);
                    }
                    None => manifest.expired.push(name.clone()),
                },
            }
        }
        let text = serde_json::to_vec_pretty(&manifest).expect("our own types are JSON");
        let sum = format!("{}\n", ca::hex(&ca::sha256(&text)));
        tar.put(MANIFEST, text.len() as u64, &mut text.as_slice())?;
        tar.put(MANIFEST_SUM, sum.len() as u64, &mut sum.as_bytes())?;
        let n_bytes = tar.n_bytes;
        tar.finish()?;
        progress(n_bytes, n_bytes);
        Ok(manifest)
    }
}

/// Takes care of a file outside of the archive; `None`: it goes into it.
pub(super) type KeepBeside<'a> =
    dyn FnMut(&str, &Source) -> Result<Option<Beside>, BackupError> + 'a;

/// Is shown a member of an archive, and says what it was.
pub(super) type SeeMember<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<Sum, BackupError> + 'a;

/// What became of a file that is kept beside the archive.
pub(super) enum Beside {
    /// It is there.
    There(Member),
    /// It was dropped meanwhile.
    Gone,
}

/// A tar that is being written.
struct Tar<'a> {
    builder: Builder<&'a mut dyn Write>,
    made_at: UnixMillis,
    n_bytes: u64,
}

impl<'a> Tar<'a> {
    fn new(out: &'a mut dyn Write, made_at: UnixMillis) -> Self {
        Self { builder: Builder::new(out), made_at, n_bytes: 0 }
    }

    fn put(
        &mut self,
        name: &str,
        n_bytes: u64,
        from: &mut dyn Read,
    ) -> Result<Member, BackupError> {
        let broken = |error: &io::Error| {
            let mut told = BackupError::file(Path::new(name), error);
            told.what = format!("the backup cannot be written: {error} (at {name})");
            told
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(self.made_at.second().unsigned_abs());
        header.set_size(n_bytes);
        let mut hashed = Hashed::new(from.take(n_bytes));
        self.builder.append_data(&mut header, name, &mut hashed).map_err(|e| broken(&e))?;
        if hashed.n_bytes != n_bytes {
            let what = format!("{name} became shorter while it was read");
            return Err(BackupError::new(what, "make the backup again"));
        }
        self.n_bytes += n_bytes;
        Ok(Member {
            name: name.to_owned(),
            n_bytes,
            sha256: hashed.sum(),
            beside: None,
            mtime_ns: None,
        })
    }

    fn finish(self) -> Result<(), BackupError> {
        let out = self.builder.into_inner();
        out.and_then(Write::flush).map_err(|error| {
            let mut told = BackupError::file(Path::new(""), &error);
            told.what = format!("the backup cannot be written: {error}");
            told
        })
    }
}

/// Hashes what is read through it.
pub(super) struct Hashed<R> {
    from: R,
    hash: Context,
    pub(super) n_bytes: u64,
}

impl<R> Hashed<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, hash: Context::new(&SHA256), n_bytes: 0 }
    }

    /// In hexadecimal.
    pub(super) fn sum(self) -> String {
        ca::hex(self.hash.finish().as_ref())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(to)?;
        self.hash.update(&to[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }
}

/// Copies all of `from`, in pieces; how much it was and its SHA-256.
pub(crate) fn pour(from: impl Read, to: &mut dyn Write) -> io::Result<(u64, String)> {
    let mut hashed = Hashed::new(from);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match hashed.read(&mut piece) {
            Ok(0) => return Ok((hashed.n_bytes, hashed.sum())),
            Ok(n) => to.write_all(&piece[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads an archive from its beginning to its end: shows `see` each member, which has to read it whole and
/// say its size and SHA-256, then checks them all against the manifest. Any bytes are read or refused.
///
/// Members that lie beside the archive are not looked at: they are in the manifest.
pub fn read_archive(from: impl Read, see: &mut SeeMember<'_>) -> Result<Manifest, BackupError> {
    let mut tar = tar::Archive::new(from);
    let mut found: Vec<(String, u64, String)> = Vec::new();
    let (mut text, mut sum) = (None, None);
    let broken = |error: io::Error| BackupError::bad(format!("it is no whole backup: {error}"));
    // Raw: whatever is no plain file is refused here, and never interpreted.
    for entry in tar.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if sum.is_some() {
            return Err(BackupError::bad(format!("it goes on after its end: {name:?}")));
        }
        if entry.header().entry_type() != EntryType::Regular {
            return Err(BackupError::bad(format!("{name:?} in it is no file")));
        }
        if name == MANIFEST {
            text = Some(small(&mut entry)?);
        } else if name == MANIFEST_SUM && text.is_some() {
            sum = Some(small(&mut entry)?);
        } else if is_member(&name) && text.is_none() {
            if found.iter().any(|(known, ..)| *known == name) {
                return Err(BackupError::bad(format!("{name} is in it twice")));
            }
            let (n_bytes, sha256) = see(&name, &mut entry)?;
            if n_bytes != entry.size() {
                return Err(BackupError::bad(format!("{name} in it is cut off")));
            }
            found.push((name, n_bytes, sha256));
        } else {
            return Err(BackupError::bad(format!("{name:?} does not belong into a backup")));
        }
    }
    let (Some(text), Some(sum)) = (text, sum) else {
        return Err(BackupError::bad("it is cut off, or no backup of gatewatch"));
    };
    let manifest = manifest(&text, &sum)?;
    let mut expected: Vec<(String, u64, String)> = Vec::new();
    for member in manifest.members.iter().filter(|member| member.beside.is_none()) {
        expected.push((member.name.clone(), member.n_bytes, member.sha256.clone()));
    }
    expected.sort();
    found.sort();
    let wrong = expected.iter().find(|one| !found.contains(one)).map(|one| &one.0);
    let wrong =
        wrong.or_else(|| found.iter().find(|one| !expected.contains(one)).map(|one| &one.0));
    match wrong {
        Some(name) => Err(BackupError::bad(format!("{name} in it is damaged or missing"))),
        None if !manifest.members.iter().any(|member| member.name == DATABASE) => {
            Err(BackupError::bad("there is no database in it"))
        }
        None => Ok(manifest),
    }
}

fn small(entry: &mut impl Read) -> Result<Vec<u8>, BackupError> {
    let mut text = Vec::new();
    let read = entry.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|error| BackupError::bad(format!("it is no whole backup: {error}")))?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(BackupError::bad("its manifest is too long"));
    }
    Ok(text)
}

fn manifest(text: &[u8], sum: &[u8]) -> Result<Manifest, BackupError> {
    if String::from_utf8_lossy(sum).trim() != ca::hex(&ca::sha256(text)) {
        return Err(BackupError::bad("its manifest is damaged"));
    }
    // Read by hand first: a later format may have other fields.
    let raw: serde_json::Value =
        serde_json::from_slice(text).map_err(|_| BackupError::bad("its manifest is no JSON"))?;
    let format = raw["format"].as_u64().unwrap_or(0);
    if format > u64::from(FORMAT) {
        let what = format!("the backup has format {format}, this release knows {FORMAT}");
        return Err(BackupError::usage(what, "use the release that made it, or a later one"));
    }
    let manifest: Manifest = serde_json::from_value(raw)
        .map_err(|error| BackupError::bad(format!("its manifest is wrong: {error}")))?;
    for member in &manifest.members {
        let is_sum =
            member.sha256.len() == 64 && member.sha256.bytes().all(|b| b.is_ascii_hexdigit());
        let is_beside = member.beside.as_ref().is_none_or(|beside| {
            is_database(&member.name) && *beside == format!("files/{}.db", member.sha256)
        });
        if !is_member(&member.name) || !is_sum || !is_beside {
            let name = &member.name;
            return Err(BackupError::bad(format!("its manifest names {name:?}, which cannot be")));
        }
    }
    let mut names: Vec<&str> = manifest.members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(BackupError::bad("its manifest names a file twice"));
    }
    Ok(manifest)
}
