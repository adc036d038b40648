#!/usr/bin/env bash
# ruff with the settings of pyproject.toml, on notebooks, modules and tests.
. "$(dirname "$0")/common.sh"
step "lint"
ruff check .
