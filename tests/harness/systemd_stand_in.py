"""A stand-in of systemd on a private bus, as a template of python-dbusmock.

Answers what the agent asks of systemd's manager and units, in the words of systemd 252 or 219, and
sends the signals of a change in systemd's order: first the properties of a unit's type, then those of
the unit. `gatewatch.StandIn` is how a test makes things happen.
"""

import fnmatch
import json
import time
import uuid

import dbus
import dbusmock

BUS_NAME = "org.freedesktop.systemd1"
MAIN_OBJ = "/org/freedesktop/systemd1"
MAIN_IFACE = "org.freedesktop.systemd1.Manager"
SYSTEM_BUS = True

UNIT = "org.freedesktop.systemd1.Unit"
STAND_IN = "gatewatch.StandIn"
TYPES = {".service": "Service", ".socket": "Socket", ".scope": "Scope"}


def load(mock, parameters):
    mock.units = {}
    mock.version = int(parameters.get("version", 252))
    mock.subscribes = bool(parameters.get("subscribes", True))
    mock.lies = False
    mock.burst = None


def unknown_method(name):
    return dbus.exceptions.DBusException(
        f"Unknown method '{name}' or interface '{MAIN_IFACE}'.",
        name="org.freedesktop.DBus.Error.UnknownMethod",
    )


def path_of(name):
    plain = "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):02x}" for c in name)
    return f"{MAIN_OBJ}/unit/{plain}"


def rows(mock, patterns):
    if mock.lies:
        return dbus.Array([dbus.UInt32(7)], signature="u")
    burst, mock.burst = mock.burst, None
    if burst:
        for _ in range(burst["n"]):
            tell(mock, burst["unit"], TYPES[burst["unit"][burst["unit"].rindex("."):]])
    listed = []
    for name, path in mock.units.items():
        if patterns and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        unit = dbusmock.get_object(path).props[UNIT]
        listed.append(
            (name, f"What {name} is", unit["LoadState"], unit["ActiveState"], unit["SubState"], "",
             dbus.ObjectPath(path), dbus.UInt32(0), "", dbus.ObjectPath("/"))
        )
    return dbus.Array(listed, signature="(ssssssouso)")


@dbus.service.method(MAIN_IFACE, in_signature="asas")
def ListUnitsByPatterns(self, _states, patterns):
    if self.version < 230:
        raise unknown_method("ListUnitsByPatterns")
    return rows(self, patterns)


@dbus.service.method(MAIN_IFACE)
def ListUnits(self):
    return rows(self, [])


@dbus.service.method(MAIN_IFACE, in_signature="s", out_signature="o")
def GetUnit(self, name):
    for path in self.units.values():
        if name in dbusmock.get_object(path).props[UNIT]["Names"]:
            return dbus.ObjectPath(path)
    raise dbus.exceptions.DBusException(
        f"Unit {name} not loaded.", name="org.freedesktop.systemd1.NoSuchUnit"
    )


@dbus.service.method(MAIN_IFACE)
def Subscribe(self):
    if not self.subscribes:
        raise dbus.exceptions.DBusException(
            "Rejected send message", name="org.freedesktop.DBus.Error.AccessDenied"
        )


def add(mock, name, kind):
    path = path_of(name)
    unit = {
        "Id": name,
        "Names": dbus.Array([name], signature="s"),
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "SubState": "dead",
        "ActiveEnterTimestamp": dbus.UInt64(0),
        "ActiveEnterTimestampMonotonic": dbus.UInt64(0),
        "InactiveEnterTimestamp": dbus.UInt64(0),
    }
    if mock.version >= 230:
        unit["StateChangeTimestamp"] = dbus.UInt64(0)
    if mock.version >= 232:
        unit["InvocationID"] = dbus.Array([], signature="y")
    of_type = {"Result": "success"}
    if kind == "Service":
        of_type["MainPID"] = dbus.UInt32(0)
        of_type["ExecMainCode"] = dbus.Int32(0)
        of_type["ExecMainStatus"] = dbus.Int32(0)
        if mock.version >= 235:
            of_type["NRestarts"] = dbus.UInt32(0)
    mock.AddObject(path, UNIT, unit, [])
    dbusmock.get_object(path).AddProperties(f"org.freedesktop.systemd1.{kind}", of_type)
    mock.units[name] = path


def change(mock, wish):
    """Brings one unit into a state. A unit that becomes active out of another state than reloading lives a
    new life, and so does one that is `restarted`."""
    name = wish["unit"]
    kind = TYPES[name[name.rindex("."):]]
    if name not in mock.units:
        add(mock, name, kind)
    props = dbusmock.get_object(mock.units[name]).props
    unit, of_type = props[UNIT], props[f"org.freedesktop.systemd1.{kind}"]
    before = unit["ActiveState"]
    now = dbus.UInt64(time.time_ns() // 1000)
    unit["ActiveState"] = wish["active"]
    unit["SubState"] = wish["sub"]
    if "StateChangeTimestamp" in unit:
        unit["StateChangeTimestamp"] = now
    if wish["active"] in ("inactive", "failed") and before not in ("inactive", "failed"):
        unit["InactiveEnterTimestamp"] = now
    unit["LoadState"] = wish.get("load", "loaded")
    if "alias" in wish:
        unit["Names"] = dbus.Array([name, wish["alias"]], signature="s")
    lives_anew = before not in ("active", "reloading") or wish.get("restarted")
    if wish["active"] == "active" and lives_anew:
        unit["ActiveEnterTimestamp"] = now
        unit["ActiveEnterTimestampMonotonic"] = dbus.UInt64(time.monotonic_ns() // 1000)
        if "InvocationID" in unit:
            unit["InvocationID"] = dbus.Array([dbus.Byte(b) for b in uuid.uuid4().bytes], signature="y")
    of_type["Result"] = wish.get("result", "success")
    if kind == "Service":
        of_type["ExecMainCode"] = dbus.Int32(wish.get("code", 0))
        of_type["ExecMainStatus"] = dbus.Int32(wish.get("status", 0))
        if "NRestarts" in of_type:
            of_type["NRestarts"] = dbus.UInt32(wish.get("n_restarts", of_type["NRestarts"]))
    if mock.subscribes:
        tell(mock, name, kind)


def tell(mock, name, kind):
    mocked = dbusmock.get_object(mock.units[name])
    for interface in (f"org.freedesktop.systemd1.{kind}", UNIT):
        told = {key: value for key, value in mocked.props[interface].items() if key not in ("Id", "Names")}
        mocked.EmitSignal(dbus.PROPERTIES_IFACE, "PropertiesChanged", "sa{sv}as",
                          [interface, dbus.Dictionary(told, signature="sv"), dbus.Array([], signature="s")])


@dbus.service.method(STAND_IN, in_signature="s")
def Change(self, wishes):
    for wish in json.loads(wishes):
        change(self, wish)


@dbus.service.method(STAND_IN, in_signature="s")
def Forget(self, name):
    """As systemd forgets a stopped unit that nothing else wants."""
    self.RemoveObject(self.units.pop(name))


@dbus.service.method(STAND_IN, in_signature="s")
def Burst(self, burst):
    """Signals of a unit while the next listing waits for its answer."""
    self.burst = json.loads(burst)


@dbus.service.method(STAND_IN, in_signature="b")
def Lie(self, lies):
    """Answers listings with something else, and sends signals that are none."""
    self.lies = bool(lies)
    for path in list(self.units.values())[:1] if lies else []:
        mocked = dbusmock.get_object(path)
        mocked.EmitSignal(dbus.PROPERTIES_IFACE, "PropertiesChanged", "su", ["x", 7])
        mocked.EmitSignal(dbus.PROPERTIES_IFACE, "PropertiesChanged", "sa{sv}as", [
            UNIT,
            dbus.Dictionary({"ActiveState": dbus.UInt32(7), "SubState": dbus.Array([], signature="s")}, signature="sv"),
            dbus.Array([], signature="s"),
        ])
