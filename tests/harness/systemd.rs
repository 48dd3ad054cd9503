//! A private D-Bus with a stand-in of systemd on it, below a root: what the agent asks where systemd is
//! process 1, for machines where it is not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fleet::Output;
use crate::process::{Process, find_program};
use crate::root::Root;
use crate::wait::eventually;

const START_LIMIT: Duration = Duration::from_secs(30);
const SERVICE: &str = "org.freedesktop.systemd1";
/// The distribution's Python: its modules are packages, those of another one are not.
const PYTHON: &str = "/usr/bin/python3";

const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
  </policy>
</busconfig>
"#;

const FORGERY: &str = r#"
import sys, dbus, dbus.bus, dbus.lowlevel
bus = dbus.bus.BusConnection(sys.argv[1])
plain = "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):02x}" for c in sys.argv[2])
path = f"/org/freedesktop/systemd1/unit/{plain}"
changed = dbus.Dictionary({"ActiveState": "failed", "SubState": "failed"}, signature="sv")
for to in [None] + [name for name in bus.list_names() if name.startswith(":")]:
    signal = dbus.lowlevel.SignalMessage(path, "org.freedesktop.DBus.Properties", "PropertiesChanged")
    signal.append("org.freedesktop.systemd1.Unit", changed, dbus.Array([], signature="s"))
    if to is not None:
        signal.set_destination(to)
    bus.send_message(signal)
bus.flush()
bus.close()
"#;

/// The bus and who answers on it; both end in `Drop`.
#[derive(Debug)]
pub struct Systemd {
    root: PathBuf,
    parameters: Value,
    /// Ends before the bus.
    stand_in: Option<Process>,
    bus: Option<Process>,
}

impl Systemd {
    /// Answers as this version of systemd does: 252 or 219.
    #[must_use]
    pub fn start(root: &Root, version: u32) -> Self {
        Self::start_with(root, json!({ "version": version }))
    }

    /// The same on a bus that lets nobody subscribe to signals.
    #[must_use]
    pub fn start_silent(root: &Root, version: u32) -> Self {
        Self::start_with(root, json!({ "version": version, "subscribes": false }))
    }

    fn start_with(root: &Root, parameters: Value) -> Self {
        root.mkdir("run/systemd/system");
        root.mkdir("run/dbus");
        let root = root.path().to_owned();
        let mut systemd = Self { root, parameters, stand_in: None, bus: None };
        systemd.start_bus();
        systemd
    }

    /// Starts the bus and the stand-in, which knows no units yet.
    pub fn start_bus(&mut self) {
        let socket = self.socket();
        std::fs::remove_file(&socket).ok(); // left behind by a bus that was killed
        let config = self.root.join("run/dbus/bus.conf");
        let text = BUS.replace("SOCKET", &socket.display().to_string());
        std::fs::write(&config, text).expect("the root is writable");
        let mut command = Command::new(find_program(&["dbus-daemon"], "dbus"));
        command.arg("--nofork").arg("--nopidfile").arg("--config-file").arg(&config);
        self.bus = Some(Process::start("dbus-daemon", &mut command, &self.log("bus")));
        eventually("the bus is there", START_LIMIT, || {
            if socket.exists() { Ok(()) } else { Err("no socket".to_owned()) }
        });
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/systemd_stand_in.py");
        let mut command = Command::new(PYTHON);
        command.args(["-m", "dbusmock", "--system", "--template"]).arg(template);
        command.arg("--parameters").arg(self.parameters.to_string());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        let mut stand_in = Process::start("systemd", &mut command, &self.log("systemd"));
        eventually("the stand-in of systemd answers", START_LIMIT, || {
            if let Some(status) = stand_in.exited() {
                panic!(
                    "{status}: apt-get install python3-dbusmock, or run tests/run.sh as root: {}",
                    stand_in.log_text()
                );
            }
            self.call("gatewatch.StandIn.Change", "string:[]")
        });
        self.stand_in = Some(stand_in);
    }

    /// SIGKILL to bus and stand-in: every connection breaks.
    pub fn kill_bus(&mut self) {
        self.stand_in.take().expect("it runs").kill9();
        self.bus.take().expect("it runs").kill9();
    }

    /// Stops the stand-in where it is: nothing is answered any more.
    pub fn freeze(&self) {
        self.stand_in.as_ref().expect("it runs").freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.stand_in.as_ref().expect("it runs").signal(Signal::CONT);
    }

    /// Brings a unit into a state; `more` sets what else there is: `result`, `code`, `status`,
    /// `n_restarts`, `alias`, `load` and `restarted`.
    pub fn set(&self, unit: &str, active: &str, sub: &str, more: &Value) {
        self.set_all(vec![Self::wish(unit, active, sub, more)]);
    }

    /// What [`Systemd::set_all`] takes.
    #[must_use]
    pub fn wish(unit: &str, active: &str, sub: &str, more: &Value) -> Value {
        let mut wish = json!({ "unit": unit, "active": active, "sub": sub });
        let more = more.as_object().cloned().unwrap_or_default();
        wish.as_object_mut().expect("just made").extend(more);
        wish
    }

    /// Brings units into states, one after the other without a pause.
    pub fn set_all(&self, wishes: Vec<Value>) {
        let wishes = format!("string:{}", Value::Array(wishes));
        self.call("gatewatch.StandIn.Change", &wishes).expect("the stand-in does as it is told");
    }

    /// Says as some other user of the bus that a unit has failed: to all, and to each one by its name.
    pub fn forge_failure(&self, unit: &str) {
        let mut command = Command::new(PYTHON);
        command.args(["-c", FORGERY, &self.address(), unit]);
        Output::of(&mut command).good().expect("anybody may send signals");
    }

    /// Forgets a unit, as systemd does with a stopped one that nothing wants.
    pub fn forget(&self, unit: &str) {
        let unit = format!("string:{unit}");
        self.call("gatewatch.StandIn.Forget", &unit).expect("the stand-in does as it is told");
    }

    /// Before its next listing is answered a unit tells its state this many times.
    pub fn burst(&self, unit: &str, n: u32) {
        let burst = format!("string:{}", json!({ "unit": unit, "n": n }));
        self.call("gatewatch.StandIn.Burst", &burst).expect("the stand-in does as it is told");
    }

    /// Answers with other types than systemd's, or truly again.
    pub fn lie(&self, lies: bool) {
        let lies = format!("boolean:{lies}");
        self.call("gatewatch.StandIn.Lie", &lies).expect("the stand-in does as it is told");
    }

    fn call(&self, method: &str, argument: &str) -> Result<String, String> {
        let mut command = Command::new(find_program(&["dbus-send"], "dbus"));
        command.arg(format!("--bus={}", self.address()));
        command.args(["--print-reply", "--reply-timeout=20000", &format!("--dest={SERVICE}")]);
        command.args(["/org/freedesktop/systemd1", method, argument]);
        Output::of(&mut command).good()
    }

    fn socket(&self) -> PathBuf {
        self.root.join("run/dbus/system_bus_socket")
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("run/dbus/{name}.log"))
    }
}
