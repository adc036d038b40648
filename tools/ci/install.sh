#!/usr/bin/env bash
# The library, everything that its development needs, and the serving stacks and the cluster that the tests run, into the
# Python that is active.
. "$(dirname "$0")/common.sh"
step "install"
python -m pip install -q --upgrade pip
pip install -q -e ".[dev,gguf,mlx,ray]"
pip check
