#!/bin/sh
# Hold every pinned version against the advisories that pip-audit knows. Ends with 1 where one is known to be weak,
# with 0 and a word where no advisory service can be reached: then nothing was learnt.
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
