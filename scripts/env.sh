# shellcheck shell=bash disable=SC2034
# Sourced by the scripts beside it: goes to the repository root, loads .env and puts the project's Python first.
# Exports what .env sets and PATH, nothing else; `python` and `fail` are for the sourcing script.

CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit

fail() { # MESSAGE [EXIT STATUS]
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

# KEY=VALUE lines, quotes around the whole value dropped. Read, never run as shell code and never printed: .env is
# where HF_TOKEN lives. What the environment already has wins.
load_dotenv() {
    local line key value
    while IFS= read -r line || [[ -n $line ]]; do
        [[ ${line%$'\r'} =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
        key=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
        [[ $value =~ ^\"(.*)\"$ || $value =~ ^\'(.*)\'$ ]] && value=${BASH_REMATCH[1]}
        [[ -v $key ]] || export "$key=$value"
    done <.env
}
if [[ -f .env ]]; then
    load_dotenv
fi

if [[ ${CONTEXT_RESEARCH_USE_EXISTING_ENV:-} == 1 ]]; then
    python=$(type -P python || type -P python3 || echo python)
else
    python=$PWD/.venv/bin/python
    PATH=$PWD/.venv/bin:$PATH # vLLM starts tools of its environment, ninja for one, by name
fi
