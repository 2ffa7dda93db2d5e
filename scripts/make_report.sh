#!/usr/bin/env bash
# Write the report of a finished run again.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
    -h | --help)
        echo 'Usage: scripts/make_report.sh [RUN] [options...]'
        echo
        echo 'Writes the report of RUN (default: latest). Options go to context-research report.'
        exit
        ;;
    '' | -*) set -- latest "$@" ;;
esac

scripts/bootstrap.sh --quiet >&2 # stdout is the report's
exec "$python" -m context_research.cli report "$@"
