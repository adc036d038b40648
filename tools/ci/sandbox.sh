#!/usr/bin/env bash
# Programs of HumanEval run in bubblewrap alone, which the README's lines do not install: it, and the tests that need it.
. "$(dirname "$0")/common.sh"
step "bubblewrap"
if ! command -v bwrap > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bubblewrap) > /dev/null 2>&1 || true
fi
if command -v bwrap; then pytest -q -n 0 tests/test_tasks.py -k 'program or humaneval'
else echo "there is no bubblewrap, and it cannot be installed: the programs of HumanEval are not tested"; fi
