#!/usr/bin/env bash
# E0's reference on one or two GPUs, in an environment that is up to date, or (--as-is) in the one that is active.
set -euo pipefail
for option; do
    [[ $option == -- ]] && break
    [[ $option == --as-is ]] && export CONTEXT_RESEARCH_USE_EXISTING_ENV=1 as_is=1
done
# Relative paths start at the repository, as in the other scripts.
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
    -h | --help | '')
        echo 'Usage: scripts/run_gpu_reference.sh OUT_DIR [--gpus 1|2] [--device-groups "0,1;2,3"] [--budget SECONDS]'
        echo '                                    [--pairs N] [--whole] [--only ab,tests,overhead] [--pack DIR]'
        echo '                                    [--as-is] [-- pytest options of the A/B...]'
        echo
        echo 'Runs what E0 on a GPU needs, within the budget (480 s), and packs it; the same command goes on.'
        echo 'Exit status 75: call again. --as-is installs nothing. docs/gpu-reference.md is its page.'
        [[ -n ${1:-} ]] && exit
        exit 2
        ;;
esac

[[ -n ${as_is:-} ]] || scripts/bootstrap.sh --quiet
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the scripts under benchmarks/ import the package of this checkout
exec "$python" benchmarks/studies/reference/reference.py "$@"
