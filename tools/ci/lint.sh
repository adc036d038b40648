#!/usr/bin/env bash
# ruff with the settings of pyproject.toml, on notebooks, modules and tests. The style report below it only informs.
. "$(dirname "$0")/common.sh"
step "lint"
ruff check .
python tools/style.py
