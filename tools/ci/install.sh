#!/usr/bin/env bash
# The library and everything that its development needs, into the Python that is active.
. "$(dirname "$0")/common.sh"
step "install"
python -m pip install -q --upgrade pip
pip install -q -e ".[dev]"
pip check
