#!/bin/sh
# Check every pinned version with pip-audit. Exits with 1 if a version has a known vulnerability, and with 0 and a
# message if no advisory service can be reached.
set -u
audit=$(mktemp -d) || exit 1
trap 'rm -rf "$audit"' EXIT
if ! sh infra/env.sh run python -I -m venv "$audit/venv" ||
    ! "$audit/venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input pip-audit 2>"$audit/log"; then
    echo "audit-deps: pip-audit could not be installed, so NOTHING WAS CHECKED: $(tail -n 1 "$audit/log")"
    exit 0
fi
"$audit/venv/bin/pip-audit" --disable-pip --no-deps --requirement constraints.txt --timeout 20 >"$audit/out" 2>"$audit/log"
status=$?
cat "$audit/out"
if [ $status -ne 0 ] && ! grep -qi 'found [0-9]* known' "$audit/log"; then
    echo "audit-deps: no advisory service answered, so NOTHING WAS CHECKED: $(tail -n 1 "$audit/log")"
    exit 0
fi
tail -n 1 "$audit/log"
exit $status
