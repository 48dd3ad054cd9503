//! A door for the fuzz targets of `tests/`: any bytes as a schedule, its command and a certificate.

use std::path::Path;

use super::{certificates, cron, shell};

/// Reads these bytes as each of them.
pub fn read(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut n_schedules = 0;
    for line in text.lines().take(100) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some(fields) = words.first_chunk::<5>() {
            n_schedules += usize::from(cron::Cron::parse(*fields).is_some());
        }
        n_schedules +=
            words.first().map_or(0, |name| usize::from(cron::Cron::named(name).is_some()));
        let commands = shell::started(line, Path::new("/nowhere"));
        assert!(commands.iter().flatten().map(String::len).sum::<usize>() <= 2 * line.len() + 16);
    }
    assert!(n_schedules <= 200);
    assert!(certificates::valid_until(bytes).is_none_or(|at| at.0.abs() < 1 << 52));
}
