#!/usr/bin/env bash
# A machine that has never seen prunebook: an empty home, an empty cache and a new virtual environment for each Python that is here.
# The README's two lines, then the same job and its report without a network, where nothing may even try to reach one. Some minutes and 2 GB
# of downloads a Python; where a network cannot be cut it fails, unless PRUNEBOOK_NO_CUT=1 allows that.
# .ci/run does it for the Python it runs on.   tests/fresh.sh [python3.12 …]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pythons=("$@")
[ ${#pythons[@]} -gt 0 ] || for v in 3.11 3.12 3.13; do p=$(command -v "python$v") && "$p" -c '' 2> /dev/null && pythons+=("$p"); done
[ ${#pythons[@]} -gt 0 ] || { echo "no Python 3.11, 3.12 or 3.13 here"; exit 1; }
settings=(); while IFS= read -r line; do settings+=("$line"); done < <(env | grep -E '^(PIP_|SSL_|REQUESTS_CA|HTTPS?_PROXY|NO_PROXY|https?_proxy|no_proxy)' || true)  # how packages are reached here, and nothing else of this environment
mkdir "$work/watch"
cat > "$work/watch/sitecustomize.py" <<'PY'
# notes every address outside of this machine that a process asks for
import os, socket, sys
def note(event, args):
    if event == 'socket.connect' and args[0].family != socket.AF_UNIX: host = str(args[1][0])
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname'): host = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
    else: return
    if not host.startswith('127.') and host not in ('::1', '0.0.0.0', '::', 'localhost', socket.gethostname(), 'None', ''):
        with open(os.environ['PRUNEBOOK_WATCH'], 'a') as f: f.write(f'{event} {host} {sys.argv}\n')
sys.addaudithook(note)
PY
cat > "$work/watch/offline.py" <<'PY'
# a new network has no way to itself yet, which kernels of notebooks need: lo up, and then the command
import fcntl, os, socket, struct, sys
with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
PY
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
for m in pkgutil.walk_packages(prunebook.__path__, 'prunebook.'):
    if not m.name.endswith('__main__'): importlib.import_module(m.name)
for name in prunebook.__all__: getattr(prunebook, name)
print(len(prunebook.__all__), 'public names')
PY
    clean prunebook reproduce --preset smoke --out first --no-progress  # and its second, shortened
    test -s first/report.html
    if unshare -rn true 2> /dev/null; then cut=(unshare -rn); elif unshare -n true 2> /dev/null; then cut=(unshare -n); else cut=(); fi
    if [ ${#cut[@]} -gt 0 ]; then
        offline() { clean PYTHONPATH="$work/watch" PRUNEBOOK_WATCH="$work/asked" "${cut[@]}" python "$work/watch/offline.py" "$@"; }
        offline python -c "import socket; socket.socket().connect_ex(('192.0.2.1', 9))"
        grep -q 192.0.2.1 "$work/asked" || { echo "the watch sees no connection"; exit 1; }
        : > "$work/asked"
        offline prunebook reproduce --preset smoke --out second --no-progress
        offline prunebook report second --no-progress
        test -s second/paper.html
        test ! -s "$work/asked" || { echo "asked for without a network:"; sort "$work/asked" | uniq -c | head; exit 1; }
        clean python - <<'PY'
import pandas as pd
a, b = (pd.read_csv(f'{o}/results.csv') for o in ('first', 'second'))
keys = ['strategy', 'n', 'healed', 'task']
m = a.merge(b, on=keys)
assert len(m) == len(a) == len(b) and (m.value_x - m.value_y).abs().max() < 1e-6, 'the second run says something else'
print('the second run, without a network: the same', len(a), 'rows')
PY
    elif [ -n "${PRUNEBOOK_NO_CUT:-}" ]; then echo "skipped: the second run without a network (unshare is not permitted here)"
    else echo "the network cannot be cut here (unshare is not permitted): run this where it can be, or allow it with PRUNEBOOK_NO_CUT=1"; exit 1; fi
    left=$(find "$home" -maxdepth 1 -mindepth 1 ! -name venv ! -name cache ! -name first ! -name second ! -name .cache ! -name .config ! -name .ipython -printf '%f ')
    test -z "$left" || { echo "left in the home folder: $left"; exit 1; }
done
echo; echo "fresh: ${#pythons[@]} of 3 Pythons (${pythons[*]##*/})"
