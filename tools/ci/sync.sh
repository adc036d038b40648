#!/usr/bin/env bash
# The notebooks are clean, and the modules are what the notebooks export. Needs a tree without changes.
. "$(dirname "$0")/common.sh"
step "notebooks and modules agree"
git diff --exit-code --stat
nbdev_clean && git diff --exit-code --stat
nbdev_export && git diff --exit-code --stat
