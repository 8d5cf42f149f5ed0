#!/bin/sh
# The Python environment of this clone.
#
#   infra/env.sh create [test]   create or update it; instant if nothing changed
#   infra/env.sh run COMMAND…    run a command inside it
#   infra/env.sh path            print its path
#
# It is in .venv. DeepSpeed's operators do not link in an environment whose path contains a space, so for such
# a clone it is in the user's cache instead. RAFT_VENV sets another path.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "raft: $*" >&2
    exit 1
}

place() {
    key=$(printf %s "$PWD" | cksum | cut -d ' ' -f 1)
    case $PWD in
        *[!A-Za-z0-9/._+@-]*) venv=${XDG_CACHE_HOME:-$HOME/.cache}/raft-mlops/venvs/$key ;;
        *) venv=$PWD/.venv ;;
    esac
    venv=${RAFT_VENV:-$venv}
    case $venv in
        *[!A-Za-z0-9/._+@-]*) fail "cannot create an environment in '$venv': set RAFT_VENV to a path without spaces" ;;
        /*) ;;
        *) venv=$PWD/$venv ;;
    esac
}

suits() {
    "$1" -I -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || fail "$PYTHON is not Python 3.11 or later with venv"
        python=$PYTHON
        return
    fi
    for python in python3.11 python3.12 python3.13 python3.14 python3 python; do
        if suits "$python"; then return; fi
    done
    fail "no Python 3.11 or later with venv found: install one (Debian: apt-get install python3 python3-venv), or use make PYTHON=…"
}

# The files that decide what is installed, and the path of the clone.
fingerprint() {
    { cat pyproject.toml constraints.txt && echo "$PWD"; } | cksum
}

is_current() {
    [ -x "$venv/bin/python" ] && [ -f "$venv/.raft" ] || return 1
    case $(cat "$venv/.raft") in
        "$(fingerprint) test") return 0 ;;
        "$(fingerprint) $extra") return 0 ;;
    esac
    return 1
}

install() {
    quiet=-qq
    if [ -t 1 ]; then quiet=; fi
    # shellcheck disable=SC2086  # PIP_ARGS holds several words
    "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input $quiet ${PIP_ARGS:-} -c constraints.txt "$@"
}

create() {
    extra=${1:-}
    if is_current; then return; fi
    find_python
    mkdir -p "$(dirname "$venv")"
    if command -v flock >/dev/null; then
        exec 9>"$venv.lock"
        flock 9
        if is_current; then return; fi
    fi
    echo "raft: installing into $venv (once; a few minutes)"
    if ! "$venv/bin/python" -I -c 'import pip' >/dev/null 2>&1; then "$python" -I -m venv --clear "$venv"; fi
    rm -f "$venv/.raft"
    install "$(grep '^torch==' constraints.txt)"
    install -e ".${extra:+[$extra]}"
    echo "$(fingerprint) $extra" >"$venv/.raft"
}

place
case ${1:-} in
    create) create "${2:-}" ;;
    path) echo "$venv" ;;
    run)
        shift
        PATH=$venv/bin:$PATH
        VIRTUAL_ENV=$venv
        export PATH VIRTUAL_ENV
        exec "$@"
        ;;
    *) fail "usage: infra/env.sh create [test] | run COMMAND… | path" ;;
esac
