#!/usr/bin/env bash
# Render every page and the README; fails on missing figures, dead references and links, and if README.md is not the rendered one.
. "$(dirname "$0")/common.sh"
step "pages"
log=$(mktemp)
python tools/preview.py --write_readme 2> "$log" || { cat "$log"; exit 1; }
git diff --exit-code README.md
python tools/colab.py --check
