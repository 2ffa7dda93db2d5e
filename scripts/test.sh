#!/usr/bin/env bash
# Everything a change has to pass, up to the first thing that fails.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

usage() {
    cat <<'EOF'
Usage: scripts/test.sh [fast|engines|slow|gpu|all] [pytest options and paths...]

Runs ruff check, ruff format --check, mypy, lint-imports and pytest, up to the first that fails.

  fast     tests/fast, on every core: no engine, under a minute
  engines  tests/engines, on engines that the session shares, and simulated ones
  slow     tests/slow, with engines and processes of the tests' own
  gpu      tests/gpu, skipped without a CUDA device
  all      all of them (default)

Without a tier's name, options and paths go to one pytest: scripts/test.sh tests/slow/test_ab.py -x
EOF
}

step() {
    echo "== $*"
    "$python" -m "$@"
}

# More than eight workers would import for longer than they test.
fast() { tests tests/fast -n "$("$python" -c 'import os; print(min(8, len(os.sched_getaffinity(0))))')" "$@"; }

# By file, as engines are shared; two at a time, as an engine on CPU takes every core. The longest files come first.
# A run whose checks of time fail, as the machine was busy just then, is run once more; the summary names it (-r R).
with_engines() {
    tests "$@" -n 2 --dist loadfile --no-loadscope-reorder \
        -r fER --reruns=1 '--only-rerun=\b(client|clock|machine|window): '
}

tests() {
    local code=0
    step pytest "$@" || code=$?
    [[ $code == 5 && $tier == all ]] && return # options may select none of one tier's tests
    return "$code"
}

tier=all
case ${1:-} in
    -h | --help) usage && exit ;;
    fast | engines | slow | gpu | all) tier=$1 && shift ;;
    ?*) tier='' ;;
esac

scripts/bootstrap.sh --dev --quiet
step ruff check .
step ruff format --check .
step mypy
echo '== lint-imports'
"${python%/*}/lint-imports"
case $tier in
    '') step pytest "$@" ;;
    fast) fast "$@" ;;
    all)
        fast "$@"
        tests tests/gpu "$@"
        with_engines tests/slow tests/engines "$@"
        ;;
    gpu) tests tests/gpu "$@" ;;
    *) with_engines "tests/$tier" "$@" ;;
esac
