#!/usr/bin/env bash
# The suite with other versions than the ones pip would choose today: the oldest that settings.ini allows, the newest at the last release,
# and the modules as nbdev 3 exports them. Half an hour and some GB of downloads each.   tests/versions.sh oldest|newest|nbdev3 [PYTHON]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
what=${1:?oldest, newest or nbdev3}
case $what in oldest) python=python3.11 ;; *) python=python3.13 ;; esac
python=${2:-$python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone -q "$root" "$work/src" && cd "$work/src"
"$python" -m venv "$work/venv" && . "$work/venv/bin/activate"
export MPLBACKEND=agg TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
unset PYTHONPATH
export PRUNEBOOK_CACHE="$work/cache"  # these versions unpack the demo set themselves

if [ "$what" = nbdev3 ]; then
    pip install -q 'nbdev>=3' && pip install -q --no-deps -e .
    nbdev-export
    changed=$(git diff --name-only)  # _modidx.py keeps nbdev's settings, whose form is another one
    [ -z "$changed" ] || [ "$changed" = prunebook/_modidx.py ] || { git diff --stat; exit 1; }
    echo "nbdev $(pip show nbdev | sed -n 's/^Version: //p') exports the same modules"; exit
fi
pip install -q -c "tests/constraints-$what.txt" -e ".[dev]"
pip check
nbdev_test
pytest -q
echo "$what: $(python --version), $(pip list --format=freeze | grep -E '^(torch|transformers|peft|datasets|numpy)==' | tr '\n' ' ')"
