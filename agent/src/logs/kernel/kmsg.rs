//! `/dev/kmsg`: one record a read, from the end of what there is, as they come.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, major, minor};
use tokio::net::unix::pipe;

use super::Sink;
use crate::clock;
use crate::logs::parse::kernel::{kmsg, record};

/// Longer than any record: the kernel's own limit is 8 KiB.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Records taken before other tasks have their turn.
const RECORDS_AT_ONCE: u32 = 256;

/// Opens the device behind its last record. A container may have its console or nothing under that
/// name: only the device itself is read, or a pipe somebody put there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let device = metadata.rdev();
    let is_kmsg =
        metadata.file_type().is_char_device() && (major(device), minor(device)) == (1, 11);
    if is_kmsg {
        file.seek(SeekFrom::End(0))?;
    } else if !metadata.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the kernel's log"));
    }
    Ok(file)
}

/// Takes every record to the sink until reading fails; tells how.
pub(super) async fn follow(device: File, sink: &mut Sink) -> io::Error {
    // The device is no pipe, but it is waited for and read in the same way.
    let device = match pipe::Receiver::from_file_unchecked(device) {
        Ok(device) => device,
        Err(error) => return error,
    };
    let mut buffer = vec![0; RECORD_BYTES_MAX];
    let mut next_seq = None;
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: nothing is read before it is ready.
            ready = device.readable() => if let Err(error) = ready {
                return error;
            },
            // Cancel-safe: a timer.
            () = sink.is_quiet() => {
                sink.tell_dropped();
                continue;
            }
        }
        for _ in 0..RECORDS_AT_ONCE {
            match device.try_read(&mut buffer) {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => take(&buffer[..n], &mut next_seq, sink),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    // Overwritten before they were read: the number of the next one tells how many.
                    io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted => {}
                    // Longer than the buffer; the kernel has gone on to the next one.
                    io::ErrorKind::InvalidInput => sink.lost(1),
                    _ => return error,
                },
            }
        }
        sink.tell_older(clock::now());
        tokio::task::yield_now().await;
    }
}

/// The records of one read; the device gives one, a pipe may give several.
fn take(bytes: &[u8], next_seq: &mut Option<u64>, sink: &mut Sink) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(kmsg) = kmsg(line) else { continue };
        if let Some(expected) = *next_seq {
            sink.lost(kmsg.seq.saturating_sub(expected));
        }
        *next_seq = Some(kmsg.seq.saturating_add(1));
        if let Some(record) = record(&kmsg) {
            sink.record(&record, clock::now());
        }
    }
}
