#!/usr/bin/env bash
# Build the wheel, install it alone into a new environment, and run the command.
. "$(dirname "$0")/common.sh"
step "wheel"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip wheel -q --no-deps -w "$work/dist" .
python -m venv "$work/clean"
"$work/clean/bin/pip" install -q --no-deps "$work"/dist/*.whl
(cd "$work" && "$work/clean/bin/prunebook" --version && "$work/clean/bin/prunebook" --help > /dev/null)
