#!/bin/sh
# Installs the gatewatch agent on this server: binary, user, config, service, enrolment, start, and the
# wait until the collector has confirmed its first data. Running it again changes only what differs.
#
# POSIX sh; needs nothing but the usual tools, and curl where the binary is to be downloaded.
set -eu

usage() {
    cat <<'USAGE'
usage: install.sh --collector HOST:PORT --token TOKEN --ca-hash sha256:HEX [options]
       install.sh --uninstall [--purge] [--root DIR]

  --collector HOST:PORT  where the collector listens for agents
  --token TOKEN          join token of `gatewatch-collector token create`; or in GATEWATCH_TOKEN
  --ca-hash sha256:HEX   fingerprint of the fleet's CA, printed beside the token
  --label K=V            label of this server; may be repeated
  --binary FILE          install this agent instead of downloading it from the collector
  --pin sha256//BASE64   public key of the collector that the download must show (curl's format);
                         default: a certificate of the CA that --ca-hash names
  --root DIR             stage everything below DIR and touch no user, service or process outside it
  --no-start             install and enrol, but do not start
  --run-check            without systemd: run the agent until its first data is confirmed, then stop it
  --wait SECONDS         longest wait for that confirmation; default 60
  --uninstall            stop and remove what was installed; config, identity and unsent data stay
  --purge                with --uninstall: remove those and the user too

Exit codes: 0 good, 1 failed (the last lines say why and what to do), 2 usage.
USAGE
}

NAME=gatewatch-agent
collector='' token=${GATEWATCH_TOKEN:-} ca_hash='' labels='' binary='' pin='' root=''
start=yes run_check=no uninstall=no purge=no wait_s=60
steps='' step='' download='' child=''

say() { printf '%s\n' "gatewatch: $*" >&2; }

# Says what is wrong and, in the second argument, what to do about it; then ends.
fail() {
    say "error: $1"
    [ -z "${2:-}" ] || say "what to do: $2"
    exit 1
}

bad_usage() {
    say "error: $1"
    say "see: install.sh --help"
    exit 2
}

# Whatever ends the script early: nothing half-done goes unsaid, nothing temporary stays.
finish() {
    code=$?
    trap - EXIT INT TERM HUP
    [ -z "$download" ] || rm -rf "$download"
    stop_child
    if [ "$code" -ne 0 ] && [ -n "$step" ]; then
        if [ -n "$steps" ]; then
            say "stopped at: $step. Done before that:$steps."
            if [ "$uninstall" = no ]; then
                say "run the same command again to go on, or --uninstall to take it back"
            fi
        else
            say "stopped at: $step. Nothing was changed."
        fi
    fi
    exit "$code"
}

begin() { step=$1; }
# A step that changed something; one that found all as it should be says nothing.
changed() {
    steps="$steps${steps:+;} $1"
    say "$1"
}

need_value() { [ "$2" -ge 2 ] || bad_usage "$1 needs a value"; }

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --collector) need_value "$1" $#; collector=$2; shift ;;
        --token) need_value "$1" $#; token=$2; shift ;;
        --ca-hash) need_value "$1" $#; ca_hash=$2; shift ;;
        --label) need_value "$1" $#; add_label "$2"; shift ;;
        --binary) need_value "$1" $#; binary=$2; shift ;;
        --pin) need_value "$1" $#; pin=$2; shift ;;
        --root) need_value "$1" $#; root=$2; shift ;;
        --wait) need_value "$1" $#; wait_s=$2; shift ;;
        --no-start) start=no ;;
        --run-check) run_check=yes ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) bad_usage "unknown option $1" ;;
        esac
        shift
    done
    case $wait_s in '' | *[!0-9]*) bad_usage "--wait takes whole seconds, not '$wait_s'" ;; esac
    case $root in
    '') ;;
    /) root='' ;;
    /*) root=${root%/} ;;
    *) bad_usage "--root takes an absolute path, not '$root'" ;;
    esac
    if [ "$uninstall" = yes ]; then
        return
    fi
    [ "$purge" = no ] || bad_usage "--purge goes with --uninstall"
    [ -n "$collector" ] || bad_usage "--collector HOST:PORT is missing"
    case $collector in
    *:*[!0-9]* | *:) bad_usage "--collector takes HOST:PORT, not '$collector'" ;;
    *:*) ;;
    *) bad_usage "--collector takes HOST:PORT, not '$collector': the port is missing (usually 8502)" ;;
    esac
    [ -n "$token" ] || bad_usage "--token is missing; \`gatewatch-collector token create\` makes one"
    [ -n "$ca_hash" ] || bad_usage "--ca-hash is missing; it is printed beside the token"
    case $ca_hash in
    sha256:*[!0-9a-fA-F]*) bad_usage "--ca-hash is sha256: and 64 hex digits, not '$ca_hash'" ;;
    sha256:*) [ ${#ca_hash} -eq 71 ] || bad_usage "--ca-hash is sha256: and 64 hex digits, this has $((${#ca_hash} - 7))" ;;
    *) bad_usage "--ca-hash is sha256: and 64 hex digits, not '$ca_hash'" ;;
    esac
}

# Labels are kept one a line, so that their values may hold blanks.
add_label() {
    case $1 in
    =* | *'
'*) bad_usage "--label takes K=V, not '$1'" ;;
    *=*) labels="$labels$1
" ;;
    *) bad_usage "--label takes K=V, not '$1'" ;;
    esac
}

set_paths() {
    bin=$root/usr/local/bin/$NAME
    config_dir=$root/etc/gatewatch
    config=$config_dir/agent.toml
    unit=$root/etc/systemd/system/$NAME.service
    state=$root/var/lib/$NAME
    run=$root/run/$NAME
}

is_root() { [ "$(id -u)" -eq 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }

# True where systemd is older than 239: it takes the names of groups of system calls that it does not
# know for an empty list of what is allowed, and the agent would not even start. A staged root may be
# for another machine: it gets the unit as it is.
is_systemd_old() {
    if [ -n "$root" ] || ! have systemctl; then
        return 1
    fi
    version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9][0-9]*\).*/\1/p')
    [ -n "$version" ] && [ "$version" -lt 239 ]
}

# True where systemd runs this machine and we install for it.
on_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ] && have systemctl; }

check_machine() {
    begin "checking this machine"
    [ "$(uname -s)" = Linux ] || fail "the agent runs on Linux, this is $(uname -s)"
    case $(uname -m) in
    x86_64 | amd64) arch=x86_64 ;;
    aarch64 | arm64) arch=aarch64 ;;
    *) arch=$(uname -m)
        [ -n "$binary" ] || fail "there is no ready-made agent for $arch" \
            "build it with \`cargo build --release -p gatewatch-agent\` and give it as --binary FILE" ;;
    esac
    if [ -z "$root" ] && ! is_root; then
        fail "installing needs root, this is user $(id -un)" "run it again with sudo in front"
    fi
    if [ -n "$root" ] && ! [ -d "$root" ]; then
        fail "--root $root is no directory" "make it first: mkdir -p '$root'"
    fi
    for tool in cat chmod chown cmp cp grep id mkdir mv rm rmdir sed tr; do
        have "$tool" || fail "the command $tool is missing" "install it (Debian: coreutils, diffutils, grep, sed)"
    done
    if [ -n "$binary" ] && ! [ -f "$binary" ]; then
        fail "--binary $binary is no file"
    fi
    if [ -z "$binary" ] && ! have curl; then
        fail "curl is missing, so the agent cannot be downloaded" \
            "install it (apt-get install curl, dnf install curl), or copy the agent here and give --binary FILE"
    fi
}

# Writes stdin to $1 with mode 0644, in one step.
put() {
    new=$1.gatewatch-new
    cat >"$new" || fail "cannot write $new" "is the disk full or read-only? df -h '${1%/*}'"
    chmod 0644 "$new"
    mv -f "$new" "$1" || fail "cannot replace $1"
}

make_dir() {
    mkdir -p "$1" 2>/dev/null || fail "cannot make the directory $1" "is the disk full or read-only? df -h '${1%/*}'"
}

install_user() {
    begin "making the user $NAME"
    # Staging without root: the agent runs as whoever stages.
    if [ -n "$root" ]; then
        user_ids=$(id -u):$(id -g)
        return
    fi
    if ! grep -q "^$NAME:" /etc/passwd && ! id -u "$NAME" >/dev/null 2>&1; then
        nologin=/usr/sbin/nologin
        [ -x "$nologin" ] || nologin=/bin/false
        if have useradd; then
            useradd --system --user-group --no-create-home --home-dir "$state" --shell "$nologin" "$NAME" ||
                fail "useradd could not make the user $NAME"
        elif have adduser && have addgroup; then
            addgroup -S "$NAME" 2>/dev/null || true
            adduser -S -D -H -h "$state" -s "$nologin" -G "$NAME" "$NAME" ||
                fail "adduser could not make the user $NAME"
        else
            fail "neither useradd nor adduser is here" \
                "make a system user $NAME in group adm by hand, then run this again"
        fi
        changed "made the user $NAME"
    fi
    # Group adm reads the logs on most systems; where it does not exist, discovery says what cannot be read.
    if grep -q '^adm:' /etc/group && ! id -nG "$NAME" | tr ' ' '\n' | grep -qx adm; then
        if have usermod; then
            usermod -a -G adm "$NAME" || fail "usermod could not add $NAME to group adm"
        else
            addgroup "$NAME" adm || fail "addgroup could not add $NAME to group adm"
        fi
        changed "added $NAME to group adm, which may read the logs"
    fi
    user_ids=$(id -u "$NAME"):$(id -g "$NAME")
}

# Downloads $1 from the collector to $2. The server is trusted by --pin, or by the CA of --ca-hash.
fetch() {
    if [ -n "$pin" ]; then
        curl -fsS --retry 2 --insecure --pinnedpubkey "$pin" -o "$2" "https://$collector/dl/$1"
        return
    fi
    # The certificate is for the name collector.gatewatch, wherever the collector lives.
    curl -fsS --retry 2 --cacert "$download/ca.pem" -o "$2" \
        --connect-to "collector.gatewatch:443:$collector" "https://collector.gatewatch/dl/$1"
}

# The CA certificate may come over an untrusted line: its fingerprint tells whether it is the one.
fetch_ca() {
    [ -z "$pin" ] || return 0
    if ! have base64 || ! have sha256sum; then
        fail "base64 or sha256sum is missing, so the collector cannot be verified" \
            "install coreutils, or copy the agent here and give --binary FILE"
    fi
    curl -fsS --retry 2 --insecure -o "$download/ca.pem" "https://$collector/dl/ca.pem" ||
        fail "cannot reach the collector at $collector" \
            "check address and port, and that a firewall lets this server through: curl -k https://$collector/dl/ca.pem"
    found=$(sed -e '/-----BEGIN/d' -e '/-----END/,$d' "$download/ca.pem" | base64 -d 2>/dev/null | sha256sum)
    found=sha256:${found%% *}
    wanted=$(printf %s "$ca_hash" | tr ABCDEF abcdef)
    [ "$found" = "$wanted" ] ||
        fail "the collector at $collector is not the one of --ca-hash: its CA is $found, expected $wanted" \
            "copy the command again from \`gatewatch-collector token create\`; if it is right, somebody answers in the collector's place"
}

install_binary() {
    begin "installing the agent"
    make_dir "${bin%/*}"
    source=$binary
    if [ -z "$source" ]; then
        # Beside its place and not in /tmp, which may forbid execution.
        download=${bin%/*}/.gatewatch-download.$$
        mkdir -m 700 "$download" || fail "cannot make the directory $download"
        fetch_ca
        source=$download/$NAME
        fetch "$NAME-$arch" "$source" ||
            fail "cannot download $NAME-$arch from $collector" \
                "put it on the collector as DATA_DIR/dl/$NAME-$arch (usually in /var/lib/gatewatch), or copy the agent here and give --binary FILE"
    fi
    binary_differs=no
    if ! [ -f "$bin" ] || ! cmp -s "$source" "$bin"; then
        new=$bin.gatewatch-new
        cp "$source" "$new" || fail "cannot write $new" "is the disk full? df -h '${bin%/*}'"
        chmod 0755 "$new"
        # Before it takes the place of one that works.
        if ! version=$("$new" --version 2>&1); then
            rm -f "$new"
            fail "this agent does not run here: $version" "give one that was built for this system as --binary FILE"
        fi
        mv -f "$new" "$bin" || fail "cannot replace $bin"
        binary_differs=yes
        changed "installed $bin ($version)"
    fi
    if [ -n "$download" ]; then
        rm -rf "$download"
        download=''
    fi
}

install_config() {
    begin "writing the config"
    make_dir "$config_dir"
    if [ -e "$config" ]; then
        return
    fi
    put "$config" <<'CONFIG'
# gatewatch-agent. All keys have defaults; check changes with `gatewatch-agent check`, take them over
# with `systemctl reload gatewatch-agent`. The collector's address is remembered from the enrolment.

#: [host]
#: name = "web-07"                     # default: hostname; unique in the fleet
#: labels = { hypervisor = "hv-3" }

# Sources beside those that are discovered; repeat the block for more.
#: [[logs.source]]
#: path = "/srv/*/logs/access.log"
#: site = "{1}"
CONFIG
    changed "wrote $config"
}

install_dirs() {
    begin "making the directories"
    if ! [ -d "$state" ]; then
        make_dir "$state"
        changed "made $state"
    fi
    chmod 0700 "$state"
    chown "$user_ids" "$state" || fail "cannot give $state to user and group $user_ids"
    # systemd makes this one itself at each start.
    if ! on_systemd; then
        make_dir "$run"
        chmod 0750 "$run"
        chown "$user_ids" "$run" || fail "cannot give $run to user and group $user_ids"
    fi
}

install_unit() {
    begin "installing the service"
    make_dir "${unit%/*}"
    unit_differs=no
    if [ -f "$unit" ] && unit_for_here | cmp -s - "$unit"; then
        return
    fi
    # In the last part of a pipe, a failure ends only that part.
    unit_for_here | put "$unit" || exit 1
    unit_differs=yes
    changed "installed $unit"
    if is_systemd_old; then
        say "this systemd knows no groups of system calls: the service runs without a filter of them"
    fi
    if on_systemd; then
        systemctl daemon-reload || fail "systemctl daemon-reload failed" "systemctl status"
    fi
}

# Runs the agent as its own user, with its own groups.
as_agent() { (become_agent "$@"); }

# The same in place of this shell, so that a signal to it reaches the agent.
become_agent() {
    if [ -n "$root" ]; then
        export GATEWATCH_STATE_DIR="$state" GATEWATCH_SOCKET="$run/agent.sock" GATEWATCH_LOGS_ROOT="$root"
        exec "$bin" --config "$config" "$@"
    elif have setpriv && setpriv --reuid=0 --regid=0 --init-groups true 2>/dev/null; then
        exec setpriv --reuid="${user_ids%:*}" --regid="${user_ids#*:}" --init-groups --no-new-privs \
            "$bin" --config "$config" "$@"
    else
        # shellcheck disable=SC2016 # expanded by the inner shell
        exec su -s /bin/sh "$NAME" -c 'exec "$0" "$@"' -- "$bin" --config "$config" "$@"
    fi
}

enrol() {
    begin "enrolling with the collector at $collector"
    set -- enroll --collector "$collector" --ca-hash "$ca_hash"
    rest=$labels
    while [ -n "$rest" ]; do
        set -- "$@" --label "${rest%%
*}"
        rest=${rest#*
}
    done
    # The token goes through the environment: other users can read command lines.
    export GATEWATCH_TOKEN="$token"
    if as_agent "$@" >&2; then
        unset GATEWATCH_TOKEN
        return
    fi
    unset GATEWATCH_TOKEN
    fail "this server could not be enrolled; the line above says why" \
        "a token is used up or expired: make a new one with \`gatewatch-collector token create\`, for a reinstalled server with --replace NAME; a wrong --ca-hash: copy the command again"
}

# One line about what the agent will watch, and the first things it may not read.
show_discovered() {
    if ! found=$(as_agent discover --json 2>/dev/null); then
        say "what the agent will watch could not be listed; see \`runuser -u $NAME -- $NAME discover\`"
        return
    fi
    count() { printf '%s' "$found" | grep -o "$1" | grep -c . || true; }
    say "discovered $(count '"site":') sites and $(count '"max_children":') PHP-FPM pools; $(count '"fix":') things cannot be read"
    if [ "$(count '"fix":')" -gt 0 ]; then
        say "what cannot be read, why, and the command that grants it: runuser -u $NAME -- $NAME discover"
    fi
}

# True once the collector has confirmed data of this agent.
has_ack() {
    status=$(as_agent status --json 2>/dev/null) || return 1
    printf '%s' "$status" | tr -d ' \n' | grep -q '"acked_at":"'
}

wait_for_ack() {
    begin "waiting for the collector to confirm the first data"
    waited=0
    until has_ack; do
        if [ -n "$child" ] && ! kill -0 "$child" 2>/dev/null; then
            child=''
            fail "the agent ended; its last lines are above"
        fi
        if [ "$waited" -ge "$wait_s" ]; then
            as_agent status >&2 || true
            fail "nothing was confirmed within $wait_s s" \
                "the status above says why; can this server reach $collector? A started agent keeps trying and keeps its data"
        fi
        sleep 1
        waited=$((waited + 1))
    done
    say "the collector has confirmed the first data"
}

stop_child() {
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
        child=''
    fi
}

start_service() {
    begin "starting the service"
    systemctl enable --quiet "$NAME" || fail "systemctl enable $NAME failed"
    if ! systemctl is-active --quiet "$NAME"; then
        systemctl start "$NAME" || fail "the service does not start" "journalctl -u $NAME -n 20"
        changed "started $NAME"
    elif [ "$binary_differs" = yes ] || [ "$unit_differs" = yes ]; then
        systemctl restart "$NAME" || fail "the service does not start again" "journalctl -u $NAME -n 20"
        changed "restarted $NAME"
    fi
}

start_agent() {
    if [ "$start" = no ]; then
        say "not started, as asked"
        return
    fi
    if on_systemd; then
        start_service
        wait_for_ack
    elif [ "$run_check" = yes ]; then
        begin "running the agent once"
        become_agent run >&2 &
        child=$!
        wait_for_ack
        stop_child
        say "the check is over and the agent is stopped"
    else
        say "systemd does not run here, so nothing was started. Let your init system run, as user $NAME:"
        say "  $bin run"
    fi
}

install() {
    check_machine
    install_user
    install_binary
    install_config
    install_dirs
    install_unit
    enrol
    show_discovered
    start_agent
    if [ -n "$steps" ]; then
        say "done:$steps"
    else
        say "done: everything was in place already"
    fi
}

remove() {
    if [ -e "$1" ] || [ -L "$1" ]; then
        rm -rf "$1" || fail "cannot remove $1"
        changed "removed $1"
    fi
}

uninstall() {
    begin "removing the agent"
    if [ -z "$root" ] && ! is_root; then
        fail "removing needs root, this is user $(id -un)" "run it again with sudo in front"
    fi
    if on_systemd && [ -e "$unit" ]; then
        systemctl disable --quiet --now "$NAME" || fail "the service does not stop" "systemctl status $NAME"
        changed "stopped $NAME"
    fi
    remove "$unit"
    if on_systemd; then
        systemctl daemon-reload || true
    fi
    remove "$bin"
    remove "$run"
    if [ "$purge" = yes ]; then
        remove "$config"
        remove "$state"
        if [ -z "$root" ] && grep -q "^$NAME:" /etc/passwd; then
            if have userdel; then userdel "$NAME"; else deluser "$NAME"; fi ||
                fail "the user $NAME cannot be removed" "does a process of it still run? ps -u $NAME"
            changed "removed the user $NAME"
        fi
        rmdir "$config_dir" 2>/dev/null || true
    else
        kept=''
        for path in "$config" "$state"; do
            [ ! -e "$path" ] || kept="$kept $path"
        done
        [ -z "$kept" ] || say "kept:$kept (--purge removes them and the user $NAME)"
    fi
    [ -n "$steps" ] || say "there was nothing to remove"
    say "the collector still lists this server: \`gatewatch-collector agent revoke NAME\` ends its certificate"
}

# The unit as this machine's systemd can take it.
unit_for_here() {
    if is_systemd_old; then
        unit_text | sed -e '/^SystemCallFilter=/d' -e '/^SystemCallErrorNumber=/d'
    else
        unit_text
    fi
}

# The unit as it is in deploy/systemd; a test holds the two equal.
unit_text() {
    cat <<'UNIT'
# The gatewatch agent: reads logs and /proc, sends what it counted to the collector.
# Local changes belong into `systemctl edit gatewatch-agent`, which an upgrade leaves alone.
[Unit]
Description=gatewatch agent
Documentation=https://github.com/gatewatch/gatewatch
Wants=network-online.target
After=network-online.target nss-lookup.target dbus.service
# A collector that is away for a week is no reason to stop trying.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/usr/local/bin/gatewatch-agent run
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=2
# 78: the configuration is wrong, and starting again does not mend it.
RestartPreventExitStatus=78
TimeoutStartSec=60
# The agent reports every 5 s; one that hangs is started again and resumes where it was.
WatchdogSec=60
# The agent drains for shutdown_grace (10 s), then this is the last word.
TimeoutStopSec=20

# Unprivileged; group adm may read the logs.
User=gatewatch-agent
Group=gatewatch-agent
SupplementaryGroups=adm
StateDirectory=gatewatch-agent
StateDirectoryMode=0700
RuntimeDirectory=gatewatch-agent
RuntimeDirectoryMode=0750
UMask=0077

# A watcher must not be what takes the server down, and should outlive what does. The agent keeps less
# from [limits] memory_bytes_max (64 MiB) on; these come after it: raise them when you raise that.
# Two arenas, and free memory back to the system early: what a flood needed is not kept.
Environment=MALLOC_ARENA_MAX=2
Environment=MALLOC_TRIM_THRESHOLD_=131072
MemoryHigh=96M
MemoryMax=160M
CPUWeight=20
CPUQuota=50%
IOWeight=20
TasksMax=64
LimitNOFILE=16384
OOMScoreAdjust=-500

# Sees files and processes of all, changes nothing outside its two directories.
# Homes are readable: hosting panels keep the logs of sites there. /proc stays whole (no ProcSubset, no
# ProtectProc): CPU, memory and pressure are read from it, and the processes of services where D-Bus
# does not answer. Users stay whole (no PrivateUsers): the groups of logs decide what may be read. Where
# the collector is, only its configuration knows: IPAddressDeny can be set by `systemctl edit`. /tmp
# is that of all (no PrivateTmp): backends have their sockets there, and ProtectSystem keeps it read-only.
ProtectSystem=strict
ProtectHome=read-only
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
# Netlink: the addresses and sockets of this machine, and name lookups.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
UNIT
}

trap finish EXIT
trap 'exit 1' INT TERM HUP
parse_arguments "$@"
set_paths
if [ "$uninstall" = yes ]; then uninstall; else install; fi
