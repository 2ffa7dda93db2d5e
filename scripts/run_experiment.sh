#!/usr/bin/env bash
# Run one experiment with pytest, in an environment that is up to date.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

usage() {
    cat <<'EOF'
Usage: scripts/run_experiment.sh EXPERIMENT [pytest options...]

Runs benchmarks/EXPERIMENT, with --seed 0 unless you give one: --seed, CONTEXT_RESEARCH_SEED, or an experiment config of
your own (--experiment-config), which then has to hold it. Works from anywhere; relative paths in the
options start at the repository, not at where you stand:

  scripts/run_experiment.sh e0 --serving-config configs/serving/disaggregated.yaml
EOF
    local experiments=(benchmarks/*/test_*.py)
    experiments=("${experiments[@]#benchmarks/}")
    experiments=("${experiments[@]%/*}/")
    echo
    echo "Experiments: ${experiments[*]%/}"
}

case ${1:-} in
    '') usage >&2 && exit 2 ;;
    -h | --help) usage && exit ;;
esac
experiment=${1#benchmarks/}
experiment=${experiment%/}
shift
if [[ ! $experiment =~ ^[A-Za-z0-9_-]+$ || ! -d benchmarks/$experiment ]]; then
    fail "no experiment '$experiment'. $(usage | tail -n 1)" 2
fi

seed=${CONTEXT_RESEARCH_SEED:-} own_config=${CONTEXT_RESEARCH_EXPERIMENT_CONFIG:-}
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
        --seed=*) seed=${!i#*=} ;;
        --seed) j=$((i + 1)) && seed=${!j:-} ;;
        --experiment-config | --experiment-config=*) own_config=1 ;;
    esac
done
if [[ -z $seed && -z $own_config ]]; then
    seed=0
    set -- --seed 0 "$@"
fi

scripts/bootstrap.sh --quiet
echo "run_experiment: benchmarks/$experiment, seed ${seed:-of the experiment config}"
exec "$python" -m pytest "benchmarks/$experiment" "$@"
