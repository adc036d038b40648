#!/usr/bin/env bash
# A browser for tests/test_site.py. PRUNEBOOK_NO_BROWSER=1 allows to go on without one.
. "$(dirname "$0")/common.sh"
step "a browser for the test of the pages"
log=$(mktemp)
install() { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }
if ! command -v chromium > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  for _ in 1 2 3; do install > "$log" 2>&1 && break || tail -n 3 "$log"; done
fi
command -v chromium || command -v google-chrome || [ -n "${PRUNEBOOK_NO_BROWSER:-}" ] || {
  echo "there is no chromium, and it cannot be installed: install it, or set PRUNEBOOK_NO_BROWSER=1"; exit 1; }
