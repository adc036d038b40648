#!/usr/bin/env bash
# What the README's second line leaves out: pages and tests that need an extra, and the thorough tests.
# The tree must be as clean afterwards as before.
. "$(dirname "$0")/common.sh"
step "pages and tests that need an extra, and thorough tests"
before=$(git status --porcelain)
for page in reference/serving/gguf reference/serving/stacks; do
  test -f "nbs/$page.ipynb" && nbdev_test --path "nbs/$page.ipynb"
done
pytest -q -m "extra or thorough" --ignore tests/test_cluster.py
pytest -q -n 0 -m "" tests/test_cluster.py  # a cluster has processes of its own
[ "$before" = "$(git status --porcelain)" ] || { git status --short; echo "the tests left files behind"; exit 1; }
