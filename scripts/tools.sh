# The programs of others, for scripts to source; from the repository's root. Each is installed below target once and found
# there from then on.

readonly TOOLS="$PWD/target/tools"
readonly PYTHON="$TOOLS/venv/bin/python"
# The dependencies of other Rust clients are built once for all of them, apart from our own.
readonly RUST_CLIENTS="$PWD/target/interop"

install_python_sdk() {
    local wanted=tests/interop/python/requirements.txt installed="$TOOLS/venv/requirements.txt"
    cmp -s "$wanted" "$installed" && return
    rm -rf "$TOOLS/venv"
    python3 -m venv "$TOOLS/venv" || { echo "python3 with the module venv is needed" >&2; return 1; }
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$wanted" && cp "$wanted" "$installed"
}

# From the lockfile, which names no registry: the packages come from the one that npm is set up for.
install_js_sdk() {
    local wanted=tests/interop/js/package-lock.json installed="$TOOLS/js/installed-lock.json"
    cmp -s "$wanted" "$installed" && return
    command -v npm >/dev/null || { echo "npm is not installed" >&2; return 1; }
    mkdir -p "$TOOLS/js"
    cp tests/interop/js/package.json "$wanted" "$TOOLS/js" &&
        npm ci --prefix "$TOOLS/js" --no-audit --no-fund --loglevel=error &&
        cp "$wanted" "$installed"
}

# A real HTTP proxy. From Debian's package of the bare program, which starts no service.
install_tinyproxy() {
    command -v tinyproxy >/dev/null && return
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get -qq install -y --no-install-recommends tinyproxy-bin >/dev/null 2>&1 && return
        apt-get -qq update && apt-get -qq install -y --no-install-recommends tinyproxy-bin >/dev/null && return
    fi
    echo "tinyproxy is not installed" >&2
    # Elsewhere the tests that need it say that they are skipped.
    [ -z "${CI:-}" ]
}
