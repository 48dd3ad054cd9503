//! Counts from a CSV file: columns `n` and `n_failed`, optionally `baseline`, every other column is
//! a dimension.
//!
//! Format: a header; comma, semicolon, tab or bar, whichever the header has most of; fields may be
//! in double quotes, with quotes doubled and line breaks inside; LF or CRLF; a byte order mark is
//! skipped. A row that cannot be right is left out and told with its line; of one whose quote is never
//! closed only the first line. Memory is bounded by
//! [`super::LEAVES_MAX`] and [`ROW_BYTES_MAX`], time by [`BYTES_MAX`].

use std::collections::VecDeque;
use std::io::{self, BufRead};

use thiserror::Error;

use super::{COUNT_MAX, DIMENSIONS_MAX, Refusal, Table};

/// Largest file that is read.
pub const BYTES_MAX: u64 = 1 << 30;
/// Longest row, line breaks in quotes included.
pub const ROW_BYTES_MAX: usize = 64 << 10;
/// Rows left out that are told one by one.
const TOLD_MAX: usize = 10;
/// Quotes not closed after which rows of several lines are no longer believed: each costs up to
/// [`ROW_BYTES_MAX`] of reading again.
const UNCLOSED_MAX: u32 = 256;
/// Most columns of a file.
const COLUMNS_MAX: usize = 256;

/// Why a file cannot be used at all. Each names the way out.
#[derive(Debug, Error)]
pub enum CsvError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Nothing in it.
    #[error("it is empty: the first line must name the columns, like `isp,path,n,n_failed`")]
    Empty,
    /// No such column.
    #[error(
        "it has no column `{0}`: the first line must name the columns, like `isp,path,n,n_failed`"
    )]
    NoColumn(&'static str),
    /// A column named by `--by` is not there.
    #[error("it has no column {0:?} to go by; it has {1}")]
    NotThere(String, String),
    /// A line that never ends.
    #[error("its first line is no header of columns")]
    NoHeader,
    /// Two columns of one name, none left, or too many.
    #[error("{0}; choose columns with `--by`")]
    Refused(#[from] Refusal),
    /// Not one row can be used.
    #[error("none of its {0} rows can be used")]
    NoRow(u64),
    /// Larger than is read.
    #[error("it is larger than {} GiB", BYTES_MAX >> 30)]
    TooLarge,
}

/// What a file holds.
#[derive(Debug)]
pub struct Read {
    /// Its counts.
    pub table: Table,
    /// Rows, without the header and empty lines.
    pub n_rows: u64,
    /// Rows left out.
    pub n_refused: u64,
    /// The first of them: line and reason.
    pub told: Vec<(u64, String)>,
}

/// Reads a file; `by` names the dimensions, all other columns when it is empty.
pub fn read(input: impl BufRead, by: &[String]) -> Result<Read, CsvError> {
    let mut rows = Rows {
        input: input.take(BYTES_MAX + 1),
        separator: b',',
        line: 0,
        n_bytes: 0,
        again: VecDeque::new(),
        n_unclosed: 0,
    };
    let header = rows.header()?;
    let columns = Columns::of(&header, by)?;
    let names = columns.dimensions.iter().map(|at| header[*at].clone()).collect();
    let mut read = Read { table: Table::new(names)?, n_rows: 0, n_refused: 0, told: Vec::new() };
    let mut fields = Vec::new();
    while let Some((line, row)) = rows.next(header.len(), &mut fields)? {
        read.n_rows += 1;
        let refused = match row {
            Ok(()) => columns.add(&fields, header.len(), &mut read.table)?,
            Err(why) => Some(why.to_owned()),
        };
        if let Some(why) = refused {
            read.n_refused += 1;
            if read.told.len() < TOLD_MAX {
                read.told.push((line, why));
            }
        }
    }
    if read.n_refused == read.n_rows {
        return Err(CsvError::NoRow(read.n_rows));
    }
    Ok(read)
}

/// Which column is what.
struct Columns {
    n: usize,
    n_failed: usize,
    baseline: Option<usize>,
    dimensions: Vec<usize>,
}

impl Columns {
    fn of(header: &[String], by: &[String]) -> Result<Self, CsvError> {
        let at = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
        let n = at("n").ok_or(CsvError::NoColumn("n"))?;
        let n_failed = at("n_failed").ok_or(CsvError::NoColumn("n_failed"))?;
        let baseline = at("baseline");
        let is_count = |at: &usize| [Some(n), Some(n_failed), baseline].contains(&Some(*at));
        let dimensions: Vec<usize> = if by.is_empty() {
            (0..header.len()).filter(|at| !is_count(at)).collect()
        } else {
            let found = |name: &String| match header.iter().position(|column| column == name) {
                Some(at) if !is_count(&at) => Ok(at),
                _ => Err(CsvError::NotThere(name.clone(), header.join(", "))),
            };
            by.iter().map(found).collect::<Result<_, _>>()?
        };
        match dimensions.len() {
            0 => Err(Refusal::NoDimension.into()),
            n if n > DIMENSIONS_MAX => Err(Refusal::TooManyDimensions(n).into()),
            _ => Ok(Self { n, n_failed, baseline, dimensions }),
        }
    }

    /// Adds a row; why it cannot be right.
    fn add(
        &self,
        fields: &[String],
        n_columns: usize,
        table: &mut Table,
    ) -> Result<Option<String>, Refusal> {
        if fields.len() != n_columns {
            return Ok(Some(format!("{} fields, the header has {n_columns}", fields.len())));
        }
        let counts = count(&fields[self.n], "n").and_then(|n| {
            let n_failed = count(&fields[self.n_failed], "n_failed")?;
            if n_failed > n {
                return Err(format!("n_failed {n_failed} is more than n {n}"));
            }
            let is_before = self.baseline.map_or(Ok(false), |at| flag(&fields[at]))?;
            Ok((n, n_failed, is_before))
        });
        let (n, n_failed, is_before) = match counts {
            Ok(counts) => counts,
            Err(why) => return Ok(Some(why)),
        };
        let values: Vec<&str> = self.dimensions.iter().map(|at| fields[*at].as_str()).collect();
        table.add(&values, is_before, n, n_failed)?;
        Ok(None)
    }
}

fn count(text: &str, column: &str) -> Result<u64, String> {
    match text.trim().parse::<u64>() {
        Ok(n) if n <= COUNT_MAX => Ok(n),
        _ => Err(format!("{column} {:?} is no count from 0 to {COUNT_MAX}", clip(text))),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "0" | "false" | "no" => Ok(false),
        "1" | "true" | "yes" => Ok(true),
        _ => Err(format!("baseline {:?} is neither 0 nor 1", clip(text))),
    }
}

/// The beginning of a field, for a message.
fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(40).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

/// Whether a row was split into fields, or why not.
type Row = Result<(), &'static str>;

/// A file, row by row.
struct Rows<R> {
    input: io::Take<R>,
    separator: u8,
    /// Lines read so far.
    line: u64,
    n_bytes: u64,
    /// Lines that are read again, because a row that began before them was none.
    again: VecDeque<Vec<u8>>,
    /// Lines with a quote that was not closed.
    n_unclosed: u32,
}

impl<R: BufRead> Rows<R> {
    /// Names of the columns; the separator is what stands between them.
    fn header(&mut self) -> Result<Vec<String>, CsvError> {
        let mut text = self.filled()?.ok_or(CsvError::Empty)?;
        if text.starts_with(b"\xef\xbb\xbf") {
            text.drain(..3);
            if trimmed(&text).is_empty() {
                text = self.filled()?.ok_or(CsvError::Empty)?;
            }
        }
        if text.len() > ROW_BYTES_MAX {
            return Err(CsvError::NoHeader);
        }
        let n_of = |separator: &u8| text.split(|byte| byte == separator).count();
        // Of equals the first: `max_by_key` takes the last.
        self.separator = *b"|\t;,".iter().max_by_key(|separator| n_of(separator)).expect("four");
        let mut split = Split::default();
        split.add(trimmed(&text), self.separator);
        let fields = split.end().ok_or(CsvError::NoHeader)?;
        if fields.len() > COLUMNS_MAX {
            return Err(CsvError::NoHeader);
        }
        Ok(fields.iter().map(|name| name.trim().to_owned()).collect())
    }

    /// The next row into `fields` with its first line, or why it is none; `None` at the end.
    ///
    /// A row of several lines that never ends, or has not `n_columns` fields, had a quote too many in
    /// its first line: only that is refused, the others are rows of their own.
    fn next(
        &mut self,
        n_columns: usize,
        fields: &mut Vec<String>,
    ) -> Result<Option<(u64, Row)>, CsvError> {
        let Some(first) = self.filled()? else { return Ok(None) };
        let line = self.line;
        if first.len() > ROW_BYTES_MAX {
            return Ok(Some((line, Err("it is longer than 64 KiB"))));
        }
        let mut split = Split::default();
        split.add(trimmed(&first), self.separator);
        let mut n_bytes = first.len();
        let mut others: VecDeque<Vec<u8>> = VecDeque::new();
        // A line break in quotes: the row goes on.
        while split.is_quoted && n_bytes <= ROW_BYTES_MAX && self.n_unclosed < UNCLOSED_MAX {
            let Some(next) = self.line()? else { break };
            let before = others.back().unwrap_or(&first);
            split.field.extend_from_slice(&before[trimmed(before).len()..]);
            split.add(trimmed(&next), self.separator);
            n_bytes += next.len();
            others.push_back(next);
        }
        let ended = split.end().filter(|_| n_bytes <= ROW_BYTES_MAX);
        let fits = |found: &Vec<String>| others.is_empty() || found.len() == n_columns;
        if let Some(found) = ended.filter(fits) {
            *fields = found;
            return Ok(Some((line, Ok(()))));
        }
        self.n_unclosed += 1;
        self.line = line;
        others.append(&mut self.again);
        self.again = others;
        Ok(Some((line, Err("a quote is not closed"))))
    }

    /// The next line that is not empty.
    fn filled(&mut self) -> Result<Option<Vec<u8>>, CsvError> {
        loop {
            match self.line()? {
                Some(line) if trimmed(&line).is_empty() => {}
                line => return Ok(line),
            }
        }
    }

    /// The next line with its end, of a long one only the beginning.
    fn line(&mut self) -> Result<Option<Vec<u8>>, CsvError> {
        if let Some(line) = self.again.pop_front() {
            self.line += 1;
            return Ok(Some(line));
        }
        let (mut text, mut n) = (Vec::new(), 0);
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let used = end.unwrap_or(chunk.len());
            let room = (ROW_BYTES_MAX + 1).saturating_sub(text.len());
            text.extend_from_slice(&chunk[..used.min(room)]);
            self.input.consume(used);
            n += used as u64;
            if end.is_some() {
                break;
            }
        }
        self.n_bytes += n;
        if self.n_bytes > BYTES_MAX {
            return Err(CsvError::TooLarge);
        }
        self.line += u64::from(n > 0);
        Ok((n > 0).then_some(text))
    }
}

/// Without the end of the line.
fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A row on its way to fields, line by line. Bytes that are no UTF-8 become the replacement character.
#[derive(Default)]
struct Split {
    fields: Vec<String>,
    field: Vec<u8>,
    is_quoted: bool,
}

impl Split {
    /// Goes on with a line without its end.
    fn add(&mut self, line: &[u8], separator: u8) {
        let mut at = 0;
        while at < line.len() {
            let byte = line[at];
            at += 1;
            match byte {
                b'"' if self.is_quoted && line.get(at) == Some(&b'"') => {
                    self.field.push(b'"');
                    at += 1;
                }
                b'"' if self.is_quoted || self.field.is_empty() => {
                    self.is_quoted = !self.is_quoted;
                }
                _ if byte == separator && !self.is_quoted => self.close(),
                _ => self.field.push(byte),
            }
        }
    }

    fn close(&mut self) {
        self.fields.push(String::from_utf8_lossy(&self.field).into_owned());
        self.field.clear();
    }

    /// The fields, unless a quote is not closed.
    fn end(mut self) -> Option<Vec<String>> {
        self.close();
        (!self.is_quoted).then_some(self.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localize::localize;

    fn check(text: &str, by: &[&str]) -> String {
        let by: Vec<String> = by.iter().map(|name| (*name).to_owned()).collect();
        match read(text.as_bytes(), &by) {
            Err(error) => error.to_string(),
            Ok(read) => {
                let told: Vec<String> =
                    read.told.iter().map(|(line, why)| format!("{line}: {why}")).collect();
                let names = read.table.dimensions().join("+");
                format!("{names} {}/{} {}", read.n_refused, read.n_rows, told.join("; "))
                    .trim_end()
                    .to_owned()
            }
        }
    }

    #[test]
    fn files_of_every_make_are_read() {
        for (text, expected) in [
            ("isp,n,n_failed\na,1,0\n", "isp 0/1"),
            ("\u{feff}isp;n;n_failed\r\na,b;1;0\r\n", "isp 0/1"),
            ("isp\tN\tN_Failed\nx\t1\t0", "isp 0/1"),
            ("isp|path|n|n_failed|baseline\nx|/a,b;c|1|0|1\n", "isp+path 0/1"),
            ("\n\n isp , n , n_failed \n\n\nx, 1 , 0 \n\n", "isp 0/1"),
            ("n_failed,isp,n\n0,\"a \"\"b\"\",\nc\",1\n1,x,1\n", "isp 0/2"),
        ] {
            assert_eq!(check(text, &[]), expected, "{text:?}");
        }
    }

    #[test]
    fn files_that_say_nothing_are_refused_with_what_is_missing() {
        let wide =
            format!("{},n,n_failed\n", ["a", "b", "c", "d", "e", "f", "g", "h", "i"].join(","));
        for (text, by, expected) in [
            ("", &[][..], "it is empty"),
            ("\n\n", &[], "it is empty"),
            ("isp,n_failed\n", &[], "no column `n`"),
            ("isp,n\n", &[], "no column `n_failed`"),
            ("n,n_failed,baseline\n1,0,0\n", &[], "there is no dimension"),
            ("isp,isp,n,n_failed\na,b,1,0\n", &[], "two dimensions \"isp\""),
            ("isp,n,n_failed\n", &[], "none of its 0 rows"),
            ("isp,n,n_failed\nx,-1,0\n", &[], "none of its 1 rows"),
            (
                "isp,n,n_failed\nx,1,0\n",
                &["asn"],
                "no column \"asn\" to go by; it has isp, n, n_failed",
            ),
            ("isp,n,n_failed\nx,1,0\n", &["n"], "no column \"n\" to go by"),
            (&wide, &[], "there are 9 dimensions, more than 8; choose columns with `--by`"),
        ] {
            let said = check(text, by);
            assert!(said.contains(expected), "{text:?}: {said}");
        }
        assert!(
            check(&wide.replace('\n', "\n1,2,3,4,5,6,7,8,9,1,0\n"), &["c", "a"])
                .starts_with("c+a 0/1")
        );
    }

    #[test]
    fn broken_rows_are_left_out_and_told_with_their_line() {
        let said = check(
            "isp,n,n_failed,baseline\nx,1,0,0\nx,1,2,0\nx,ten,0,0\nx,1\nx,1.5,0,0\nx,5,1,maybe\n\"x,1,0,0\n",
            &[],
        );
        assert_eq!(
            said,
            "isp 6/7 3: n_failed 2 is more than n 1; 4: n \"ten\" is no count from 0 to \
             1099511627776; 5: 2 fields, the header has 4; 6: n \"1.5\" is no count from 0 to \
             1099511627776; 7: baseline \"maybe\" is neither 0 nor 1; 8: a quote is not closed"
        );
    }

    #[test]
    fn a_row_that_never_ends_costs_its_bound_and_the_rest_is_read() {
        let long = "y".repeat(ROW_BYTES_MAX * 3);
        let said = check(&format!("isp,n,n_failed\nx,1,0\n{long},1,0\nx,1,0\n"), &[]);
        assert_eq!(said, "isp 1/3 3: it is longer than 64 KiB");
        let header = check(&long, &[]);
        assert_eq!(header, "its first line is no header of columns");
    }

    #[test]
    fn a_stray_quote_costs_its_own_line_and_none_of_the_thousands_after_it() {
        let rows = "x,1,0\n".repeat(5000);
        for (stray, what) in [
            (format!("isp,n,n_failed\nx,1,0\n\"y,1,0\n{rows}"), "to the end"),
            (format!("isp,n,n_failed\nx,1,0\n\"y,1,0\n{}", rows.repeat(9)), "for over 64 KiB"),
            (format!("isp,n,n_failed\nx,1,0\n\"y,1,0\n{rows}z\",\"a\nb\",1,0\n"), "to another"),
        ] {
            let said = check(&stray, &[]);
            let n_rows = stray.matches("\nx").count() as u64 + 1;
            assert!(said.contains("3: a quote is not closed"), "{what}: {said}");
            let read = read(stray.as_bytes(), &[]).unwrap();
            assert!(read.n_refused <= 3 && read.n_rows >= n_rows, "{what}: {said}");
        }
        let split = "isp,n,n_failed\nx,1,0\n\"y,1,0\nx,1,0\n\"a\nb\",1,0\nx,1,0\n";
        let said = check(split, &[]);
        assert!(said.starts_with("isp 1/5 3: a quote is not closed"), "{said}");
    }

    #[test]
    fn a_file_of_nothing_but_stray_quotes_is_not_read_again_without_end() {
        let n = UNCLOSED_MAX as usize + 5;
        let text =
            |n: usize| format!("isp,n,n_failed\nx,1,0\n{}\"a\nb\",1,0\n", "x,\"\n".repeat(n));
        let few = read(text(5).as_bytes(), &[]).unwrap();
        assert_eq!((few.n_rows, few.n_refused), (7, 5), "the row of two lines is read");
        let many = read(text(n).as_bytes(), &[]).unwrap();
        let refused = n as u64 + 1;
        assert_eq!((many.n_rows, many.n_refused), (n as u64 + 3, refused), "it no longer is");
    }

    #[test]
    fn too_many_combinations_end_the_reading() {
        let mut text = String::from("a,b,n,n_failed\n");
        for i in 0..=crate::localize::LEAVES_MAX {
            text.push_str(&i.to_string());
            text.push_str(",x,1,0\n");
        }
        let refused = read(text.as_bytes(), &[]).unwrap_err().to_string();
        assert!(refused.contains("more than 500000 different combinations"), "{refused}");
    }

    #[test]
    fn a_file_gives_the_answer_of_its_rows() {
        let text = "isp,path,n,n_failed,baseline\na,/x,100,1,1\na,/y,100,1,1\nb,/x,100,0,1\n\
                    b,/y,100,1,1\na,/x,50,1,0\na,/x,50,0,0\na,/y,100,2,0\nb,/x,100,91,0\nb,/y,100,1,0\n";
        let read = read(text.as_bytes(), &[]).unwrap();
        let found = localize(&read.table).common;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            serde_json::to_value(&found[0].values).unwrap(),
            serde_json::json!({"isp": "b", "path": "/x"})
        );
        assert_eq!((found[0].n, found[0].n_failed), (100, 91));
    }
}
