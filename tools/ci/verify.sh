#!/usr/bin/env bash
# Score items of the kept runs again for two minutes, drawn with a new seed: code that moves numbers is caught by the numbers.
# The seed is printed; PRUNEBOOK_SEED=N draws as before.
. "$(dirname "$0")/common.sh"
seed=${PRUNEBOOK_SEED:-$RANDOM$RANDOM}
log=$(mktemp)
step "verify the kept runs, seed $seed"
for run in demo gemma3-270m; do
  again="prunebook verify nbs/results/$run --minutes 1 --seed $seed"
  $again --no-progress > "$log" || [ $? = 3 ] || { cat "$log"; echo "again: $again"; exit 1; }
  tail -n 7 "$log"
done
