#!/usr/bin/env bash
# The library, everything that its development needs, and all extras, into the Python that is active.
. "$(dirname "$0")/common.sh"
step "install"
python -m pip install -q --upgrade pip
pip install -q -e ".[dev,all]"
pip check
