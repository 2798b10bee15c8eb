# Sourced by quickstart.sh and test.sh: creates .venv and installs the requirement files passed to `install`.
# Nothing is reinstalled unless one of the files has changed.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: Python 3.10 or newer is needed; choose one with PYTHON=/path/to/python3." >&2
    exit 1
fi

install() {
    local stamp="$VENV/installed-$(cat "$@" | cksum | tr -d ' ')"
    [ -e "$stamp" ] && return
    # If python3-venv is missing, a first attempt leaves a python without pip behind.
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && ! "$PYTHON" -m venv "$VENV"; then
        echo "error: could not create a virtual environment. On Debian and Ubuntu: apt install python3-venv." >&2
        exit 1
    fi
    echo "installing $* into $VENV ..."
    local files=()
    for file in "$@"; do files+=(-r "$file"); done
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${files[@]}"
    touch "$stamp"
}
