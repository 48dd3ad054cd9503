//! The line that names the columns of a W3C log (IIS, CloudFront), for one that is resumed in its
//! middle: it stands at the start of the file, and again wherever the columns changed.

use std::io;

use super::{Input, Open};

const MARK: &[u8] = b"#Fields:";
/// What is read at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// So far back it is looked for; beyond that only at the start of the file.
const BACK_BYTES_MAX: u64 = 64 << 20;

impl Open {
    /// The last such line before the place of reading; `None` when the file does not begin like a
    /// W3C log, or is read from its start. Cost: one byte for any other log.
    pub(in crate::logs) fn fields_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut first = [0];
        let is_plain = matches!(self.input, Input::Plain(_));
        if self.offset == 0 || !is_plain || self.read_at(&mut first, 0)? == 0 || first != *b"#" {
            return Ok(None);
        }
        let mut block = vec![0; BLOCK_BYTES];
        let lowest = self.offset.saturating_sub(BACK_BYTES_MAX);
        let mut end = self.offset;
        while end > lowest {
            let from = end.saturating_sub(BLOCK_BYTES as u64).max(lowest);
            if let Some(line) = self.last_fields(from, end, &mut block)? {
                return Ok(Some(line));
            }
            // A mark that begins in the block before ends in this one.
            let overlap = if from == lowest { 0 } else { MARK.len() as u64 };
            end = from + overlap;
        }
        self.last_fields(0, lowest.min(BLOCK_BYTES as u64), &mut block)
    }

    fn last_fields(
        &mut self,
        from: u64,
        end: u64,
        block: &mut [u8],
    ) -> io::Result<Option<Vec<u8>>> {
        let n = self.read_at(&mut block[..(end - from) as usize], from)?;
        let text = &block[..n];
        let starts_line = |at: &usize| match at.checked_sub(1) {
            Some(before) => text[before] == b'\n',
            None => from == 0,
        };
        let Some(at) = memchr::memmem::rfind_iter(text, MARK).find(starts_line) else {
            return Ok(None);
        };
        let start = from + at as u64;
        let mut line = vec![0; BLOCK_BYTES];
        let n = self.read_at(&mut line, start)?;
        line.truncate(memchr::memchr(b'\n', &line[..n]).unwrap_or(0));
        Ok((!line.is_empty()).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_in_force_are_found_before_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u_ex.log");
        let row = "2026-11-20 12:01:07 GET /a 200 #Fields: x\n";
        let rows = row.repeat(5000);
        let text =
            format!("#Software: x\r\n#Fields: date time\r\n{rows}#Fields: date status\n{rows}");
        std::fs::write(&path, &text).unwrap();
        let second = text.rfind("\n#Fields").unwrap() + 1;
        let mut open = Open::new(&path).unwrap();
        let mut at = |offset: usize| {
            open.seek(offset as u64);
            let line = open.fields_line().unwrap()?;
            Some(String::from_utf8(line).unwrap())
        };
        assert_eq!(at(0), None, "it comes by itself");
        for offset in [40, 1000, BLOCK_BYTES, second - 1, second] {
            assert_eq!(at(offset).as_deref(), Some("#Fields: date time\r"), "{offset}");
        }
        for n in 0..20 {
            let offset = second + 21 + BLOCK_BYTES - n;
            assert_eq!(at(offset).as_deref(), Some("#Fields: date status"), "{offset}");
        }
        assert_eq!(at(text.len()).as_deref(), Some("#Fields: date status"));
        std::fs::write(&path, format!("a request\n#Fields: date\n{row}")).unwrap();
        let mut open = Open::new(&path).unwrap();
        open.seek(30);
        assert_eq!(open.fields_line().unwrap(), None, "no W3C log");
    }
}
