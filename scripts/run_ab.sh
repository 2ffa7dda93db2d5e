#!/usr/bin/env bash
# Compare serving configurations of one experiment, in an environment that is up to date.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
    -h | --help | '')
        echo 'Usage: scripts/run_ab.sh EXPERIMENT [options...] [-- pytest options...]'
        echo
        echo 'Runs sessions of two arms or more in turn, A B B A, each on engines of its own, and ends with verdict and'
        echo 'report. After an interruption, the same command goes on. Options go to context-research ab:'
        echo
        echo '  scripts/run_ab.sh e0                                                    # until all is decided: 6 to 12 pairs'
        echo '  scripts/run_ab.sh e0 --pairs 6 --seed 0                                 # as many pairs, whatever they show'
        echo '  scripts/run_ab.sh e0 --baseline aggregated --candidate aggregated       # A/A: the noise floor'
        echo "  scripts/run_ab.sh e0 --device-groups '0,1;2,3'                          # both arms at once, GPUs swapped each pair"
        echo '  scripts/run_ab.sh e0 --candidate "aggregated --set engine.max_num_batched_tokens=512" --baseline aggregated'
        echo "  scripts/run_ab.sh e0 --arm whole=aggregated --arm split=disaggregated \\"
        echo "      --arm small='aggregated --set engine.max_num_batched_tokens=512'    # each against the first, or --against"
        [[ -n ${1:-} ]] && exit
        exit 2
        ;;
esac

scripts/bootstrap.sh --quiet
exec "$python" -m context_research.cli ab "$@"
