#!/usr/bin/env bash
# Everything a change has to pass, up to the first thing that fails. Arguments go to pytest.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
    -h | --help)
        echo 'Usage: scripts/test.sh [pytest options and paths...]'
        echo
        echo 'Runs ruff check, ruff format --check, mypy and pytest, up to the first that fails.'
        exit
        ;;
esac

step() {
    echo "== $*"
    "$python" -m "$@"
}

scripts/bootstrap.sh --dev --quiet
step ruff check .
step ruff format --check .
step mypy
step pytest "$@"
