#!/usr/bin/env bash
# Build the wheel, check what an index would show, install it alone into a new environment, run the command, and cut a
# model with it beside the dependencies of this environment.
. "$(dirname "$0")/common.sh"
step "wheel"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip wheel -q --no-deps -w "$work/dist" .
python -m venv "$work/clean"
"$work/clean/bin/pip" install -q --no-deps "$work"/dist/*.whl numpy fastcore  # all that the help needs
(cd "$work" && "$work/clean/bin/prunebook" --version && "$work/clean/bin/prunebook" --help > /dev/null)
python -m venv "$work/twine"
if "$work/twine/bin/pip" install -q twine; then "$work/twine/bin/twine" check --strict "$work"/dist/*.whl
else echo "twine cannot be installed here: the description was not checked"; fi
pip install -q --no-deps --target "$work/site" "$work"/dist/*.whl
cd "$work"
PYTHONPATH="$work/site" TQDM_DISABLE=1 python - <<'END'
import prunebook as pb
model, tokenizer = pb.load_model('demo', progress=False)
small = pb.prune_model(model, pb.choose_layers('simple', 4, model=model))
pb.save_pruned(small, tokenizer, 'small')
print(pb.__file__, 'cuts', len(model.model.layers), 'layers to', len(small.model.layers))
assert pb.__file__.startswith(__import__('os').getcwd()) and pb.check_checkpoint('small') == []
END
