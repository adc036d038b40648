# Sourced by the scripts beside it: the root of the repository, and an environment that is the same everywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export MPLBACKEND=agg TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
unset PYTHONPATH
step() { echo; echo "== $* ($(date +%T))"; }
