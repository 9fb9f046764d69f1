# Sourced by scripts/demo and scripts/test: goes to the checkout, makes .venv on the first run, puts it first
# on the path. Later runs compare one file and start at once.

cd "$(dirname "$0")/.." || exit 1

fail() {
    echo "deepsec_jax: $1" >&2
    exit 1
}

find_python() {
    no_venv=
    for candidate in "${PYTHON:-python3.13}" python3.13 python3.12 python3.11 python3; do
        # Run it: a name on the path may be an empty shim of a version manager.
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            return
        fi
        no_venv=${no_venv:-$candidate}
    done
    if [ -n "$no_venv" ]; then
        fail "$no_venv lacks venv or ensurepip: install them (Debian, Ubuntu: apt install python3-venv)"
    fi
    fail "needs Python 3.11 or newer, found none on the path: install one, or name it, PYTHON=/path/to/python $0"
}

# What the installation depends on: where the checkout lies and what pyproject.toml says.
installed_for() {
    pwd -P
    cat pyproject.toml
}

if [ ! -x .venv/bin/python ] || ! installed_for | cmp -s - .venv/installed-for; then
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        find_python
        echo "deepsec_jax: first run, making .venv with $("$python" -V)" >&2
        "$python" -m venv --clear .venv || fail "could not make .venv with $python"
    fi
    echo "deepsec_jax: installing into .venv (this can take some minutes; later runs start at once)" >&2
    quiet=--quiet
    [ -t 2 ] && quiet=
    .venv/bin/python -m pip install $quiet --disable-pip-version-check --no-input --no-compile --editable '.[test,docs]' ||
        fail "pip could not install the project; the lines above say why"
    installed_for >.venv/installed-for
fi

PATH="$PWD/.venv/bin:$PATH"
export PATH

# With this variable every process would compile the sources of jax and others anew, for seconds.
unset PYTHONDONTWRITEBYTECODE
