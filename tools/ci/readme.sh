#!/usr/bin/env bash
# The README's two lines, word for word, each in a new clone with a new environment and an empty home, with the Python that
# is active. Prints when each command of a line began, and the peak memory of its processes together (Linux only).
# The folders stay in WORK: 1 with the finished run, 2 with the development environment.   tools/ci/readme.sh WORK
. "$(dirname "$0")/common.sh"
mkdir -p "${1:?folder}"; root=$PWD; work=$(realpath "$1")
mapfile -t lines < <(grep '^pip install' README.md)
[ ${#lines[@]} = 2 ] || { echo "README.md: ${#lines[@]} lines begin with pip install, where two are expected"; exit 1; }
# how packages are reached here, and nothing else of this environment
mapfile -t settings < <(env | grep -E '^(PIP_|SSL_|REQUESTS_CA|HTTPS?_PROXY|NO_PROXY|https?_proxy|no_proxy)' || true)
clean() { env -i HOME="$home" PATH="$home/venv/bin:/usr/bin:/bin" LANG=C.UTF-8 "${settings[@]}" "$@"; }
cat > "$work/watch.py" <<'PY'
import os, subprocess, sys, time

def megabytes():
    "Of all processes with this home; memory that they share counts once"
    mark, kb = f'HOME={os.environ["HOME"]}'.encode(), 0
    for p in filter(str.isdigit, os.listdir('/proc') if os.path.isdir('/proc') else ()):
        try:
            with open(f'/proc/{p}/environ', 'rb') as f: ours = mark in f.read().split(b'\0')
            if not ours: continue
            with open(f'/proc/{p}/smaps_rollup') as f: kb += int(f.read().split('\nPss:')[1].split()[0])
        except (OSError, IndexError): pass  # it has ended
    return kb // 1000

start, peak = time.time(), 0
# bash takes no PS4 from the environment where it runs as root
run = subprocess.Popen(['bash', '-c', "PS4='== after $SECONDS s: '\nset -x\n" + sys.argv[1]])
while run.poll() is None:
    peak = max(peak, megabytes())
    time.sleep(1)
print(f'== {time.time() - start:.0f} s and at most {peak:,} MB: {sys.argv[1]}', flush=True)
sys.exit(run.returncode or peak > 8000 and os.cpu_count() <= 2 and 'more than 8 GB of memory')
PY
for i in 1 2; do
  step "the README's line $i: ${lines[i-1]}"
  home=$work/$i; mkdir -p "$home"; git clone -q "$root" "$home/prunebook"; python -m venv "$home/venv"
  (cd "$home/prunebook" && clean "$home/venv/bin/python" "$work/watch.py" "${lines[i-1]}")
  left=$(git -C "$home/prunebook" status --porcelain)
  [ -z "$left" ] || { echo "left in the clone: $left"; exit 1; }
done
