#!/usr/bin/env bash
# Everything that a change has to pass, in one command:
#
#   scripts/check.sh          all of it
#   scripts/check.sh --fast   without what takes long: interop, adapters, simulator, deny, publish, fresh lockfile
#
# Needs the Rust toolchain, node with npm, python3 with venv, the headers of OpenSSL (for azeventhubs), and tinyproxy,
# which it installs where it may (root with apt-get). What else it uses (Azurite, the SDKs of others, cargo-deny) it
# installs below target; the second run finds it there.
#
# EHP_THOROUGH=1 takes minutes more: every two features together, and the fuzz corpora through an optimized build.
# EHP_INTEROP_WRITE=1 lets the interop tests write docs/interop.md instead of comparing with it.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

. scripts/tools.sh

readonly AZURITE_VERSION=3.35.0
readonly LOGS="$PWD/target/check"
readonly OPTIMIZED="$PWD/target/optimized"
readonly ACCOUNT=devstoreaccount1
# The well-known key of every Azurite, from its documentation.
readonly ACCOUNT_KEY='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='

fast=false
for argument in "$@"; do
    case "$argument" in
        --fast) fast=true ;;
        *) echo "usage: scripts/check.sh [--fast]" >&2; exit 2 ;;
    esac
done

failures=0
summary=()
azurite_pid=
started=$SECONDS
PATH="$PATH:$TOOLS/cargo/bin"
rm -rf "$LOGS"
mkdir -p "$LOGS" "$TOOLS"

# Where everything is built once, what makes the second build fast and a debugger useful only costs time.
if [ -n "${CI:-}" ]; then
    export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=none
fi

# Runs a command under a heading, times it and notes how it ended. A failure does not keep the other steps from
# being run.
step() {
    local name=$1 before=$SECONDS status=0 verdict=ok
    shift
    printf '\n=== %s\n' "$name"
    "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        verdict="FAILED ($status)"
        failures=$((failures + 1))
    fi
    printf -- '--- %s: %s, %d s\n' "$name" "$verdict" "$((SECONDS - before))"
    summary+=("$(printf '%-14s %4d s  %s' "$verdict" "$((SECONDS - before))" "$name")")
}

cleanup() {
    # shellcheck disable=SC2046 # one id a word
    kill $azurite_pid $(jobs -p) 2>/dev/null
    wait 2>/dev/null
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- tools ----------------------------------------------------------------------------------------------------------

install_azurite() {
    local package="$TOOLS/node/node_modules/azurite/package.json"
    grep -qs "\"version\": \"$AZURITE_VERSION\"" "$package" && return
    command -v npm >/dev/null || { echo "npm is not installed" >&2; return 1; }
    npm install --prefix "$TOOLS/node" --no-audit --no-fund --loglevel=error "azurite@$AZURITE_VERSION"
}

# Starts a function that only keeps the compiler busy, beside steps that wait more than they compute and are to notice
# nothing of it. What it builds goes into a folder of its own, so that nobody waits for a lock.
start() {
    {
        # Of this subshell; `$$` is that of the script.
        renice -n 19 "$(exec sh -c 'echo "$PPID"')" >/dev/null
        "$1"
    } >"$LOGS/$1.log" 2>&1 &
    echo $! >"$LOGS/$1.pid"
}

finish() {
    local status=0
    wait "$(cat "$LOGS/$1.pid")" || status=$?
    cat "$LOGS/$1.log"
    return "$status"
}

prepare() {
    build_rust_clients &&
        install_cargo hack &&
        install_cargo deny &&
        (in_adapters cargo test --quiet --locked --no-run) &&
        (in_adapters cargo clippy --quiet --locked --all-targets)
}

# Optimized: it is thirty times as fast.
build_simulator() {
    CARGO_TARGET_DIR="$OPTIMIZED" cargo build --quiet --release --package eventhubs-sim
}

build_rust_clients() {
    local version
    for version in 0.15 0.16; do
        CARGO_TARGET_DIR="$RUST_CLIENTS" cargo build --quiet --locked \
            --manifest-path "tests/interop/rust-$version/Cargo.toml" || return
    done
}

# A subcommand of cargo's. Its speed does not matter here, the time to build it does.
install_cargo() {
    cargo "$1" --version 2>/dev/null && return
    cargo install --locked --debug --quiet "cargo-$1" --root "$TOOLS/cargo"
}

install_tools() {
    install_azurite || return
    install_tinyproxy || return
    "$fast" || { install_python_sdk && install_js_sdk; }
}

# Starts Azurite on a free port and tells the tests where it is, and where the program is for those that start their own.
start_azurite() {
    export EHP_AZURITE_PROGRAM="$TOOLS/node/node_modules/azurite/dist/src/blob/main.js"
    local log="$LOGS/azurite.log" url=
    (cd "$LOGS" && exec node "$EHP_AZURITE_PROGRAM" \
        --blobHost 127.0.0.1 --blobPort 0 --silent --inMemoryPersistence --disableTelemetry) >"$log" 2>&1 &
    azurite_pid=$!
    for _ in $(seq 300); do
        url=$(sed -n 's/.*successfully listens on \(http:[^ ]*\).*/\1/p' "$log")
        [ -n "$url" ] && break
        kill -0 "$azurite_pid" 2>/dev/null || break
        sleep 0.1
    done
    if [ -z "$url" ]; then
        echo "Azurite did not start:" >&2
        cat "$log" >&2
        return 1
    fi
    echo "Azurite listens on $url"
    export AZURITE_BLOB_ENDPOINT="$url/$ACCOUNT"
    export EHP_AZURITE_CONNECTION_STRING="DefaultEndpointsProtocol=http;AccountName=$ACCOUNT;AccountKey=$ACCOUNT_KEY;BlobEndpoint=$url/$ACCOUNT;"
}

# --- steps ----------------------------------------------------------------------------------------------------------

# The library without features and with each of those that are for users; with all of them it is linted above.
features() {
    local sets=(--each-feature --exclude-all-features --exclude-features testing,unstable-bench,unstable-fuzz)
    [ -z "${EHP_THOROUGH:-}" ] || sets=(--feature-powerset --depth 2)
    cargo hack clippy --package eventhubs-processor "${sets[@]}" -- -D warnings
}

document() {
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --all-features --no-deps
}

# Shows the output and keeps it, for the result lines at the end.
run_tests() {
    cargo test --workspace --all-features --no-fail-fast "$@" 2>&1 | tee -a "$LOGS/tests.log"
}

# Most tests of real networks wait for something: four of them at a time keep two processors busy.
workspace_tests() {
    RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}" run_tests
}

interop() {
    EHP_INTEROP=1 EHP_PYTHON="$PYTHON" EHP_JS="$TOOLS/js" EHP_RUST_CLIENTS="$RUST_CLIENTS/debug" \
        run_tests --test interop
}

# The span that the example prints is a child of the one that its event names.
open_telemetry() {
    timeout 120 cargo run --quiet --example opentelemetry >"$LOGS/opentelemetry.log" &&
        cat "$LOGS/opentelemetry.log" &&
        grep -q 'ParentSpanId : 00f067aa0ba902b7' "$LOGS/opentelemetry.log"
}

# In their own folder, with their own lockfile: what its `.cargo/config.toml` says counts there only.
in_adapters() {
    export CARGO_TARGET_DIR="$PWD/target/adapters"
    cd adapters/azeventhubs && "$@"
}

adapters() (
    in_adapters cargo fmt -- --check &&
        cargo clippy --locked --all-targets -- -D warnings &&
        cargo test --locked 2>&1 | tee -a "$LOGS/tests.log"
)

# Random bytes, disfigured traffic and faults against the emulator while the Python SDK works through it. Ten minutes of
# it say something about memory: EHP_TORTURE_SECONDS=600.
torture() {
    EHP_TORTURE_SECONDS="${EHP_TORTURE_SECONDS:-25}" EHP_PYTHON="$PYTHON" \
        run_tests --test torture -- --nocapture
}

# What must do no harm does none where overflows are not looked for either. Minutes of compiling for seconds of running,
# hence on request.
optimized_corpora() {
    cargo test --release --package eventhubs-processor --all-features --test corpus
}

# Whole groups under random faults, the bugs that must be noticed, and the same seeds in two processes.
simulate() {
    finish build_simulator &&
        "$OPTIMIZED/release/sim" swarm --seeds 1000 &&
        "$OPTIMIZED/release/sim" bugs &&
        "$OPTIMIZED/release/sim" meta
}

# Packs each crate, builds it from the package alone and stops short of the upload.
publish() {
    local dirty=()
    [ -n "${CI:-}" ] || dirty=(--allow-dirty)
    cargo publish --dry-run --workspace "${dirty[@]}"
}

# Builds against the newest versions of all dependencies that Cargo.toml allows, as a new user of the crate does. In a
# copy, because the lockfile is not to change.
fresh_lockfile() (
    copy="$PWD/target/fresh-lockfile" target="$PWD/target"
    rm -rf "$copy"
    mkdir -p "$copy"
    git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents --target-directory="$copy" &&
        cd "$copy" && cargo update --quiet &&
        CARGO_TARGET_DIR="$target" cargo check --workspace --all-features
)

step "tools" install_tools
"$fast" || start prepare
step "cargo fmt" cargo fmt --all -- --check
step "cargo clippy" cargo clippy --workspace --all-targets --all-features -- -D warnings
step "cargo doc" document
step "Azurite" start_azurite
step "cargo test" workspace_tests
step "cargo build" cargo build --workspace --all-features --bins --examples
# As the README has it. Built first: the features of one package alone are not those of the whole workspace.
step "cargo build quickstart" cargo build --quiet --example quickstart
step "quickstart" timeout 120 cargo run --quiet --example quickstart
step "opentelemetry" open_telemetry
if ! "$fast"; then
    [ -z "${EHP_THOROUGH:-}" ] || step "corpora, optimized" optimized_corpora
    step "prepared" finish prepare
    start build_simulator
    step "interop" interop
    step "adapters" adapters
    step "simulator" simulate
    step "torture" torture
    step "features" features
    step "cargo deny" cargo deny --log-level error check bans licenses sources
    step "cargo deny, adapters" cargo deny --manifest-path adapters/azeventhubs/Cargo.toml \
        --log-level error check bans licenses sources
    step "cargo publish" publish
    step "fresh lockfile" fresh_lockfile
fi

printf '\n=== summary, %d min %02d s\n' "$(((SECONDS - started) / 60))" "$(((SECONDS - started) % 60))"
printf '%s\n' "${summary[@]}"
grep -E '^ *(Running|Doc-tests) |^test result:|^test .*FAILED|^error: ' "$LOGS/tests.log" 2>/dev/null
if [ "$failures" -ne 0 ]; then
    echo "$failures of ${#summary[@]} steps failed"
    exit 1
fi
echo "all ${#summary[@]} steps passed"
