#!/usr/bin/env bash
# In the environment of the README's first line, made by readme.sh in WORK: what is imported is declared, and without a network
# the main job and the report of the finished run work, and ask for no address.   tools/ci/offline.sh WORK
. "$(dirname "$0")/common.sh"
home=$(realpath "${1:?folder}")/1; watch=$home/watch; asked=$watch/asked; mkdir -p "$watch"
step "without a network"
cat > "$watch/sitecustomize.py" <<'PY'
# notes every address outside of this machine that a process asks for
import os, socket, sys
def note(event, args):
    if event == 'socket.connect' and args[0].family != socket.AF_UNIX: host = args[1][0]
    elif event in ('socket.getaddrinfo', 'socket.gethostbyname'): host = args[0]
    else: return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith('127.') and host not in ('::1', '0.0.0.0', '::', 'localhost', socket.gethostname(), 'None', ''):
        with open(os.environ['PRUNEBOOK_WATCH'], 'a') as f: f.write(f'{event} {host} {sys.argv}\n')
sys.addaudithook(note)
PY
cat > "$watch/start.py" <<'PY'
# a new network has no way to itself yet, which kernels of notebooks need: lo up, and then the command
import fcntl, os, socket, struct, sys
if os.environ.pop('CUT', ''):
    with socket.socket() as s: fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
PY
if unshare -rn true 2> /dev/null; then cut=(unshare -rn); elif unshare -n true 2> /dev/null; then cut=(unshare -n)
else cut=(); echo "WARNING: the network cannot be cut here; that it is not asked for is still checked"; fi
offline() {
  env -i HOME="$home" PATH="$home/venv/bin:/usr/bin:/bin" LANG=C.UTF-8 PYTHONPATH="$watch" PRUNEBOOK_WATCH="$asked" \
    CUT="${cut[*]}" "${cut[@]}" python "$watch/start.py" "$@"; }
cd "$home"
offline python -c "import socket; socket.socket().connect_ex(('192.0.2.1', 9))"
grep -q 192.0.2.1 "$asked" || { echo "the watch sees no connection"; exit 1; }
: > "$asked"
offline pip check
offline python - <<'PY'
import importlib, pkgutil, prunebook
for m in pkgutil.walk_packages(prunebook.__path__, 'prunebook.'):
    if not m.name.endswith('__main__'): importlib.import_module(m.name)
for name in prunebook.__all__: getattr(prunebook, name)
print(len(prunebook.__all__), 'public names')
PY
offline prunebook reproduce --preset smoke --out offline --no-progress
offline prunebook report prunebook/prunebook-run --out paper.html --no-progress
test -s paper.html
test ! -s "$asked" || { echo "asked for:"; sort "$asked" | uniq -c | head; exit 1; }
