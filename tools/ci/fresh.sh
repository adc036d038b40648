#!/usr/bin/env bash
# A machine that has never seen prunebook, with the Python that is active. Where the network cannot be cut, it says so.
. "$(dirname "$0")/common.sh"
step "a machine that has never seen prunebook"
log=$(mktemp)
unshare -rn true 2> /dev/null || unshare -n true 2> /dev/null || {
  echo "WARNING: the network cannot be cut here, so the second run keeps it"; export PRUNEBOOK_NO_CUT=1; }
tests/fresh.sh "$(command -v python)" 2> "$log" || { tail -n 20 "$log"; exit 1; }
