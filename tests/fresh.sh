#!/usr/bin/env bash
# A machine that has never seen prunebook: an empty home, an empty cache and a new virtual environment for each Python that is here.
# The README's two lines, then the same job again without a network. Some minutes and 2 GB of downloads a Python;
# .ci/run does it for the Python it runs on.   tests/fresh.sh [python3.12 …]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pythons=("$@")
[ ${#pythons[@]} -gt 0 ] || for v in 3.11 3.12 3.13; do p=$(command -v "python$v") && "$p" -c '' 2> /dev/null && pythons+=("$p"); done
[ ${#pythons[@]} -gt 0 ] || { echo "no Python 3.11, 3.12 or 3.13 here"; exit 1; }
settings=(); while IFS= read -r line; do settings+=("$line"); done < <(env | grep -E '^(PIP_|SSL_|REQUESTS_CA|HTTPS?_PROXY|NO_PROXY|https?_proxy|no_proxy)' || true)  # how packages are reached here, and nothing else of this environment
git -C "$root" archive HEAD | (mkdir -p "$work/src" && tar -x -C "$work/src")

for python in "${pythons[@]}"; do
    echo; echo "== $("$python" --version) ($(date +%T))"
    home=$(mktemp -d -p "$work"); cd "$home"
    clean() { env -i HOME="$home" PATH="$home/venv/bin:/usr/bin:/bin" LANG=C.UTF-8 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" PRUNEBOOK_CACHE="$home/cache" "${settings[@]}" "$@"; }
    "$python" -m venv "$home/venv"
    clean pip install -q -e "$work/src"                                 # the README's first line
    clean pip check
    # every import of the package is declared: the declared packages are all that was installed
    clean python - <<'PY'
import importlib, pkgutil, prunebook
for m in pkgutil.iter_modules(prunebook.__path__):
    if m.name != '__main__': importlib.import_module(f'prunebook.{m.name}')
for name in prunebook.__all__: getattr(prunebook, name)
print(len(prunebook.__all__), 'public names')
PY
    clean prunebook reproduce --preset smoke --out first --no-progress  # and its second, shortened
    test -s first/report.html
    if unshare -rn true 2> /dev/null; then cut=(unshare -rn); elif unshare -n true 2> /dev/null; then cut=(unshare -n); else cut=(); fi
    if [ ${#cut[@]} -gt 0 ]; then
        clean "${cut[@]}" prunebook reproduce --preset smoke --out second --no-progress
        clean python - <<'PY'
import pandas as pd
a, b = (pd.read_csv(f'{o}/results.csv') for o in ('first', 'second'))
keys = ['strategy', 'n', 'healed', 'task']
m = a.merge(b, on=keys)
assert len(m) == len(a) == len(b) and (m.value_x - m.value_y).abs().max() < 1e-6, 'the second run says something else'
print('the second run, without a network: the same', len(a), 'rows')
PY
    else echo "skipped: the second run without a network (unshare is not permitted here)"; fi
    left=$(find "$home" -maxdepth 1 -mindepth 1 ! -name venv ! -name cache ! -name first ! -name second ! -name .cache ! -name .config -printf '%f ')
    test -z "$left" || { echo "left in the home folder: $left"; exit 1; }
done
echo; echo "fresh: ${#pythons[@]} of 3 Pythons (${pythons[*]##*/})"
