#!/usr/bin/env bash
# Every page and every test, as the README says, less the installation. The tree must be as clean afterwards as before.
# `tools/ci/test.sh pages` runs the pages alone, `tools/ci/test.sh tests` the tests alone.
. "$(dirname "$0")/common.sh"
what=${1:-all}
step "nbdev_test and pytest: $what"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # nbdev_test runs as many notebooks at once as there are cores
before=$(git status --porcelain)
[ "$what" = tests ] || nbdev_test
if [ "$what" != pages ]; then
    pytest -q -n 2 --ignore tests/test_cluster.py  # two processes: most of the time goes into starting others
    pytest -q tests/test_cluster.py                # a cluster has processes of its own
fi
[ "$before" = "$(git status --porcelain)" ] || { git status --short; echo "the tests left files behind"; exit 1; }
