//! Statistics of HAProxy as CSV (`show stat`, or its page) and `show info`. Pure and total.

use super::dial::printable;
use crate::probes::Values;

/// Rows that are looked at, and the ones that become series.
const ROWS_MAX: usize = 5000;
const BACKENDS_MAX: usize = 100;
const SERVERS_MAX: usize = 200;
const NAME_CHARS_MAX: usize = 80;

/// The values of the table; `None` when it is none. Frontends are left out: sites are counted by
/// their log.
pub(super) fn parse_stat(text: &str) -> Option<Values> {
    let mut lines = text.lines().map(|line| line.trim_start_matches("# "));
    let header = lines.find(|line| line.starts_with("pxname,svname,"))?;
    let columns = Columns::of(header);
    let mut values = Values::new();
    let (mut n_backends, mut n_servers) = (0, 0);
    for line in lines.take_while(|line| !line.is_empty()).take(ROWS_MAX) {
        let fields = fields(line);
        let text = |column: Option<usize>| Some(fields.get(column?)?.as_str());
        let number = |column| text(column)?.parse::<u64>().ok().map(|n| n as f64);
        let (Some(proxy), Some(server)) = (fields.first(), fields.get(1)) else { continue };
        match server.as_str() {
            "BACKEND" if n_backends < BACKENDS_MAX => {
                n_backends += 1;
                let attribute = format!("backend={}", printable(proxy, NAME_CHARS_MAX));
                for (metric, column) in [
                    ("haproxy.sessions.count", columns.sessions),
                    ("haproxy.sessions.limit", columns.sessions_max),
                    ("haproxy.requests.queued", columns.queued),
                    ("haproxy.connections.errors", columns.errors),
                    ("haproxy.connections.retries", columns.retries),
                ] {
                    // An empty field: it does not apply.
                    values.extend(number(column).map(|n| (metric, attribute.clone(), n)));
                }
            }
            "FRONTEND" | "BACKEND" => {}
            server if n_servers < SERVERS_MAX => {
                n_servers += 1;
                let is_up = text(columns.status).and_then(is_up);
                let name = printable(&format!("{proxy}/{server}"), NAME_CHARS_MAX);
                let value = is_up.map(|is_up| f64::from(u8::from(is_up)));
                values.extend(value.map(|n| ("haproxy.server.up", format!("server={name}"), n)));
            }
            _ => {}
        }
    }
    Some(values)
}

/// `UP`, `UP 1/3`, `DOWN`, `DOWN 1/2`, `NOLB`; what is not checked or taken out by hand is neither.
fn is_up(status: &str) -> Option<bool> {
    match status.split(' ').next()? {
        "UP" => Some(true),
        "DOWN" => Some(false),
        _ => None,
    }
}

/// Connections and their limit of the whole process.
pub(super) fn parse_info(text: &str) -> Values {
    let mut values = Values::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        let metric = match key {
            "CurrConns" => "haproxy.connections.count",
            "Maxconn" => "haproxy.connections.limit",
            _ => continue,
        };
        let value = value.trim().parse::<u64>().ok();
        values.extend(value.map(|n| (metric, String::new(), n as f64)));
    }
    values
}

/// Where the columns are: their order grew over the versions.
struct Columns {
    queued: Option<usize>,
    sessions: Option<usize>,
    sessions_max: Option<usize>,
    errors: Option<usize>,
    retries: Option<usize>,
    status: Option<usize>,
}

impl Columns {
    fn of(header: &str) -> Self {
        let at = |name: &str| header.split(',').position(|column| column == name);
        Self {
            queued: at("qcur"),
            sessions: at("scur"),
            sessions_max: at("slim"),
            errors: at("econ"),
            retries: at("wretr"),
            status: at("status"),
        }
    }
}

/// Fields of one line; quotes keep commas.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            c => fields.last_mut().expect("starts with one").push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HAProxy 2.6, its columns after `status` cut.
    const STAT: &str = "\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight
http-in,FRONTEND,,,1,2,500,9,0,0,0,0,0,,,,,OPEN,
be_a,s1,0,0,2,3,,7,0,0,,0,,4,0,5,0,UP 1/3,1
be_a,\"s,2\",0,0,0,0,,0,0,0,,0,,0,0,0,0,DOWN,1
be_a,s3,0,0,0,0,,0,0,0,,0,,0,0,0,0,no check,1
be_a,BACKEND,6,7,2,3,50,7,0,0,0,0,,4,0,5,0,UP,2
be_b,BACKEND,0,0,0,0,,0,0,0,0,0,,x,0,-1,0,UP,2

> never read,BACKEND,1
";

    #[test]
    fn backends_and_servers_are_read_by_the_names_of_their_columns() {
        let values = parse_stat(STAT).unwrap();
        let shown: Vec<_> = values.iter().map(|(m, a, v)| format!("{m}{{{a}}} {v}")).collect();
        let want = [
            "haproxy.server.up{server=be_a/s1} 1",
            "haproxy.server.up{server=be_a/s,2} 0",
            "haproxy.sessions.count{backend=be_a} 2",
            "haproxy.sessions.limit{backend=be_a} 50",
            "haproxy.requests.queued{backend=be_a} 6",
            "haproxy.connections.errors{backend=be_a} 4",
            "haproxy.connections.retries{backend=be_a} 5",
            "haproxy.sessions.count{backend=be_b} 0",
            "haproxy.requests.queued{backend=be_b} 0",
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn hostile_tables_are_bounded_or_refused() {
        for text in ["", "Unknown command.\n", "pxname\n", "\0\u{ffff}"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
        let row = |n: u32| format!("b{n},BACKEND,1,1\nb{n},s,1,1\n");
        let rows: String = (0..10_000).map(row).collect();
        let values = parse_stat(&format!("# pxname,svname,qcur,status\n{rows}")).unwrap();
        assert!(values.len() <= BACKENDS_MAX * 5 + SERVERS_MAX, "{}", values.len());
        assert_eq!(parse_stat("pxname,svname,qcur\n,\n\"\n").unwrap(), []);
    }

    #[test]
    fn the_process_tells_its_connections() {
        let info = "Name: HAProxy\nMaxconn: 500\nCurrConns: 3\nCumConns: x\nMaxconn_x: 1\n";
        let values: Vec<_> = parse_info(info).into_iter().map(|(m, _, v)| (m, v)).collect();
        assert_eq!(
            values,
            [("haproxy.connections.limit", 500.0), ("haproxy.connections.count", 3.0)]
        );
        assert_eq!(parse_info("Maxconn: -1\nCurrConns:\n"), []);
    }
}
