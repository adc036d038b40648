#!/usr/bin/env bash
# ruff on notebooks, modules and tests, then pyright on the modules, both with the settings of pyproject.toml.
. "$(dirname "$0")/common.sh"
step "lint"
ruff check .
step "types"
pyright
