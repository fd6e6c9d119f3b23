# shellcheck shell=bash
# What the other scripts share. Sourced, never run: it defines names and does nothing else.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Absolute, because cargo would read a relative one from the folder it is started in.
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
export CARGO_TARGET_DIR

# The file that rustup adds to the login shell is not read by a CI job or a cron job.
PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin

# Progress goes to stderr: stdout belongs to what was asked for.
say() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# What each purpose needs, as `command:package`, or where the package brings no command as `/file:package` or
# `python3.module:package`.
#   build    ring, SQLite (bundled) and libsodium (bundled, of the macaroon crate) are C
#   chain    scripts/bitcoind: a download and a lock
#   tests    an authority that gives certificates; a clock that can be set
#   clients  tests/clients: Python and what makes it a folder for packages; what the VSS server is built with, and its tokens are
#   bench    scripts/bench
requirements() {
    case $1 in
        build) echo cc:build-essential make:build-essential pkg-config:pkg-config ;;
        chain) echo curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates flock:util-linux ;;
        tests) echo pebble:pebble faketime:faketime ;;
        clients) echo python3:python3 python3.ensurepip:python3-venv openssl:openssl /usr/include/openssl/ssl.h:libssl-dev ;;
        bench) echo wrk:wrk strace:strace ;;
        *) die "no such purpose: $1" ;;
    esac
}

# is_there PROBE: what comes before the colon of a requirement.
is_there() {
    case $1 in
        /*) [[ -e $1 ]] ;;
        python3.*) python3 -c "import ${1#*.}" 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# need_packages PURPOSE…: sees that the system packages are there. Installs them where that needs no password, and
# otherwise says the one line to run.
need_packages() {
    local purpose requirement missing=() sudo=()
    for purpose in "$@"; do
        for requirement in $(requirements "$purpose"); do
            is_there "${requirement%%:*}" || missing+=("${requirement#*:}")
        done
    done
    ((${#missing[@]})) || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    ((EUID == 0)) || sudo=(sudo -n)
    if ! command -v apt-get >/dev/null || ! "${sudo[@]}" true 2>/dev/null; then
        die "packages are missing; install them, then try again:  sudo apt-get install ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
    # A fresh machine has no package lists yet, and old lists name files that are gone: both show as a failed install.
    "${sudo[@]}" "${install[@]}" >&2 </dev/null && return
    "${sudo[@]}" apt-get update -q >&2 </dev/null
    "${sudo[@]}" "${install[@]}" >&2 </dev/null
}

# nginx_exe: prints the path of an nginx: the system's, or that of Debian's package, unpacked in .cache/. Installing the package
# would start a server on port 80. It is the one of nginx-light, which since Debian 12 has no program of its own.
nginx_exe() {
    local found cache=$root/.cache/nginx work sudo=()
    found=$(PATH=$PATH:/usr/sbin command -v nginx) && echo "$found" && return
    found=$cache/usr/sbin/nginx
    "$found" -v 2>/dev/null && echo "$found" && return
    say "fetching nginx, to be measured beside the program"
    work=$(mktemp -d)
    if ! (cd "$work" && apt-get download -q nginx >&2 </dev/null); then
        ((EUID == 0)) || sudo=(sudo -n)
        "${sudo[@]}" apt-get update -q >&2 </dev/null || true
        (cd "$work" && apt-get download -q nginx >&2 </dev/null) || die "nginx is missing; install it, then try again"
    fi
    rm -rf "$cache" && mkdir -p "$cache"
    dpkg -x "$work"/nginx_*.deb "$cache"
    rm -rf "$work"
    "$found" -v 2>/dev/null || die "the nginx that was fetched does not run here; install nginx, then try again"
    echo "$found"
}

# need_rust: sees that the toolchain is there and new enough; Cargo.toml says how new.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    found=$(cd "$root" && rustc --version 2>/dev/null | cut -d' ' -f2) || found=0
    if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) != "$wanted" ]]; then
        die "Rust $wanted or newer is needed (found: ${found/#0/none}). Install it as https://rustup.rs says, or:  rustup update stable"
    fi
    command -v cargo >/dev/null || die "rustc is here, but cargo is not; https://rustup.rs installs both"
}

# need_subcommand NAME HOW: sees that `cargo NAME` is there, or says how to get it.
need_subcommand() {
    (cd "$root" && cargo "$1" --version >/dev/null 2>&1) || die "cargo $1 is missing:  $2"
}

# run_harness PROFILE ARGS…: builds what ships and the harness that drives it, and becomes the harness. stdout is the
# harness's. PROFILE is `dev`, the build of the tests, so that demo and tests build everything once, or `release`, which is
# what can be measured.
run_harness() {
    local profile=$1 folder=$1 bitcoind_pid
    shift
    [[ $profile != dev ]] || folder=debug
    need_packages build chain
    need_rust
    # Fetched while the compiler runs. The call below waits for it, and says what went wrong.
    "$root/scripts/bitcoind" >/dev/null 2>&1 &
    bitcoind_pid=$!
    say "building tollhouse and its harness ($profile; some minutes the first time, seconds after that)"
    # Both packages in one go and never `-p`: one feature graph, so nothing is built twice (Cargo.toml, default-members).
    (cd "$root" && cargo build --profile "$profile" --locked) >&2
    say "built"
    wait "$bitcoind_pid" || true
    # Two lines, because `export NAME=$(command)` would hide the command's failure.
    BITCOIND_EXE=$("$root/scripts/bitcoind")
    export BITCOIND_EXE TOLLHOUSE_EXE="$CARGO_TARGET_DIR/$folder/tollhouse"
    exec "$CARGO_TARGET_DIR/$folder/regtest" "$@"
}
