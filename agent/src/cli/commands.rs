//! What each command does: arguments in, stages called, text out, an exit code.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Cli, Command, EnrollArgs};
use crate::config::{self, Config, Problem};
use crate::identity::{self, CaHash, Enrolled, Enrolment, IdentityError};
use crate::status::{self, StatusError};
use crate::{RunError, clock, discover, logs};

/// The answer is no.
pub(super) const EXIT_NO: u8 = 1;
/// sysexits' EX_SOFTWARE and EX_CONFIG.
const EXIT_INTERNAL: u8 = 70;
const EXIT_CONFIG: u8 = 78;
/// The command line is wrong; clap's own.
const EXIT_USAGE: u8 = 2;

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Every problem of the config.
    #[error("{}", lines(.0))]
    Config(Vec<Problem>),
    /// An argument makes no sense.
    #[error("{what}: {fix}")]
    Usage {
        /// Which.
        what: String,
        /// What to write.
        fix: String,
    },
    /// See the source.
    #[error(transparent)]
    Run(#[from] RunError),
    /// See the source.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// See the source.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// A file or stdout.
    #[error("cannot {action} {path}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
}

impl CommandError {
    /// 1, 2, 70 or 78.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => EXIT_CONFIG,
            Self::Usage { .. } => EXIT_USAGE,
            Self::Run(error) if error.is_config() => EXIT_CONFIG,
            Self::Identity(IdentityError::Refused { .. } | IdentityError::Link(_))
            | Self::Status(_) => EXIT_NO,
            // A file that was named and is not there, or is none, or is not ours to read.
            Self::Io { action: "read", source, .. } if is_askers_mistake(source) => EXIT_USAGE,
            Self::Run(_) | Self::Identity(_) | Self::Io { .. } => EXIT_INTERNAL,
        }
    }
}

fn is_askers_mistake(source: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(source.kind(), NotFound | PermissionDenied | IsADirectory | NotADirectory)
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Does what the command line says; returns the exit code.
pub fn dispatch(cli: &Cli) -> Result<u8, CommandError> {
    log_to_stderr(cli)?;
    match &cli.command {
        Command::Run => {
            let (file, config) = (cli.config.clone(), load(cli.config.as_deref())?);
            crate::run(config, Box::new(move || read_config(file.as_deref())))?;
            Ok(0)
        }
        Command::Enroll(args) => enroll(&load(cli.config.as_deref())?, args),
        Command::Status { json } => {
            let answer = status::ask(&load(cli.config.as_deref())?.socket)?;
            let text = if *json { answer + "\n" } else { status::render(&answer) };
            print(text.as_bytes())
        }
        Command::Discover { json, root: Some(root) } => discover(root, *json),
        Command::Discover { json, root: None } => {
            let config = load(cli.config.as_deref())?;
            let code = discover(&config.logs.root, *json)?;
            if let Some(hint) = hint_for_root(&config.state_dir) {
                drop(writeln!(io::stderr().lock(), "{hint}"));
            }
            Ok(code)
        }
        Command::Parse { format, file } => parse(format, file),
        Command::Scan(args) => super::scan::scan(args),
        Command::Check => match read_config(cli.config.as_deref()) {
            Ok(_) => print(b"the config is sound\n"),
            Err(problems) => {
                print(format!("{}\n", lines(&problems)).as_bytes()).map(|_| EXIT_CONFIG)
            }
        },
        Command::Completions { shell } => print(&super::completions(*shell)),
        Command::Man => print(&super::man().map_err(on_stdout)?),
    }
}

fn read_config(file: Option<&Path>) -> Result<Config, Vec<Problem>> {
    Config::load(
        file,
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
    )
}

fn load(file: Option<&Path>) -> Result<Config, CommandError> {
    read_config(file).map_err(CommandError::Config)
}

fn log_to_stderr(cli: &Cli) -> Result<(), CommandError> {
    let named = cli.log_level.clone().or_else(|| std::env::var("GATEWATCH_LOG_LEVEL").ok());
    // The commands talk for themselves; only the daemon tells what goes well.
    let default = if matches!(cli.command, Command::Run) { "info" } else { "warn" };
    let level = named.unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&level).ok().filter(|_| names_levels(&level));
    let filter = filter.ok_or_else(|| CommandError::Usage {
        what: format!("log level {level:?} is not understood"),
        fix: "write error, warn, info, debug or trace".to_owned(),
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

/// A word that is no level would pass for the name of a module, and nothing would be logged.
fn names_levels(text: &str) -> bool {
    let mut words = text.split(',').map(str::trim);
    words.all(|word| word.contains('=') || !word.is_empty() && word.parse::<LevelFilter>().is_ok())
}

fn enroll(config: &Config, args: &EnrollArgs) -> Result<u8, CommandError> {
    let usage = |what: &str| {
        let what = what.to_owned();
        move |fix: String| CommandError::Usage { what, fix }
    };
    config::check_address(&args.collector).map_err(usage("--collector"))?;
    let ca_hash = CaHash::parse(&args.ca_hash).map_err(usage("--ca-hash"))?;
    let name = config.server_name();
    config::check_server_name(&name).map_err(usage("[host] name"))?;
    let token = args.token.clone().or_else(|| std::env::var("GATEWATCH_TOKEN").ok());
    let token = token.filter(|token| !token.is_empty()).ok_or_else(|| CommandError::Usage {
        what: "there is no token".to_owned(),
        fix: "give --token or GATEWATCH_TOKEN".to_owned(),
    })?;
    let mut labels = config.host.labels.clone();
    labels.extend(args.labels.iter().cloned());
    let ask = Enrolment {
        state_dir: config.state_dir.clone(),
        collector: args.collector.clone(),
        token,
        ca_hash,
        name,
        labels,
        detected: identity::detected_labels(&config.logs.root),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(RunError::System)?;
    let text = match runtime.block_on(identity::enroll(&ask, clock::now()))? {
        Enrolled::New(new) => format!(
            "enrolled as {} with the collector at {}; certificate until {}, renewed by itself\n",
            new.server, new.collector, new.not_after
        ),
        Enrolled::Already(known) => format!(
            "already enrolled as {} with this collector; certificate until {}\n",
            known.server, known.not_after
        ),
    };
    print(text.as_bytes())
}

fn discover(root: &Path, json: bool) -> Result<u8, CommandError> {
    let failed = |source| CommandError::Io { action: "read", path: root.to_owned(), source };
    std::fs::read_dir(root).map_err(failed)?;
    let found = discover::discover(root);
    if json {
        return print_with(|out| discover::render::write_json(&found, out));
    }
    print(discover::render::render_text(&found).as_bytes())
}

/// Root may read everything; the agent, whose state directory is not root's, may not.
fn hint_for_root(state_dir: &Path) -> Option<&'static str> {
    let is_root = rustix::process::geteuid().is_root();
    let owner = std::fs::metadata(state_dir).ok()?.uid();
    (is_root && owner != 0).then_some(
        "gatewatch-agent: root may read all of this; to see what the agent may not, run: \
         runuser -u gatewatch-agent -- gatewatch-agent discover",
    )
}

fn parse(format: &str, file: &Path) -> Result<u8, CommandError> {
    logs::parse::check_format(format).map_err(|fix| CommandError::Usage {
        what: format!("--format {format:?} is not known"),
        fix,
    })?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let failed = |source| CommandError::Io { action: "read", path: file.to_owned(), source };
    let done = if file == Path::new("-") {
        logs::parse::output::parse_command(format, &mut io::stdin().lock(), &mut out)
    } else {
        let mut input = BufReader::new(File::open(file).map_err(failed)?);
        logs::parse::output::parse_command(format, &mut input, &mut out)
    };
    match done {
        Ok(()) => Ok(0),
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn print(bytes: &[u8]) -> Result<u8, CommandError> {
    print_with(|out| out.write_all(bytes))
}

fn print_with(
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<u8, CommandError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(on_stdout(error)),
    }
}

fn on_stdout(source: io::Error) -> CommandError {
    CommandError::Io { action: "write", path: "standard output".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_to_parse_that_is_not_there_is_a_usage_error() {
        let code = |path: &str| parse("auto", Path::new(path)).map_err(|error| error.exit_code());
        assert_eq!(code("/nowhere/access.log"), Err(EXIT_USAGE));
        assert_eq!(code("/"), Err(EXIT_USAGE));
    }

    #[test]
    fn a_format_to_parse_that_is_none_is_a_usage_error() {
        let code =
            |format: &str| parse(format, Path::new("/dev/null")).map_err(|error| error.exit_code());
        for good in ["auto", "combined", "nginx_error", "$status", "$host", "%h %>s"] {
            assert_eq!(code(good), Ok(0), "{good:?}");
        }
        for bad in ["bogus", "combind", ""] {
            assert_eq!(code(bad), Err(EXIT_USAGE), "{bad:?}");
        }
    }

    #[test]
    fn a_log_level_that_is_none_is_refused_and_not_taken_for_a_module() {
        for (text, is_good) in [
            ("info", true),
            ("DEBUG", true),
            ("off", true),
            ("warn,gatewatch_agent=debug", true),
            ("verbose", false),
            ("inof", false),
            ("info,verbose", false),
            ("", false),
        ] {
            assert_eq!(names_levels(text), is_good, "{text:?}");
        }
    }
    #[test]
    fn root_is_told_that_it_sees_more_than_an_agent_of_another_user() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hint_for_root(dir.path()), None, "the agent runs as who asks");
        assert_eq!(hint_for_root(&dir.path().join("none")), None);
        let is_others = std::os::unix::fs::chown(dir.path(), Some(4321), None).is_ok();
        assert_eq!(hint_for_root(dir.path()).is_some(), is_others, "only root can give it away");
    }
}
