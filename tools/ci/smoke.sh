#!/usr/bin/env bash
# The main job, shortened, into the folder OUT.   tools/ci/smoke.sh OUT
. "$(dirname "$0")/common.sh"
step "the main job, shortened"
prunebook reproduce --preset smoke --out "${1:?folder}"
