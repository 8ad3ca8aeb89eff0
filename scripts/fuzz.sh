#!/usr/bin/env bash
# Fuzzes targets one after the other and prints what each has done:
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]
#
# Starts from fuzz/corpus and fuzz/grown; what is new goes to fuzz/grown, which is not committed. Needs a nightly
# toolchain and cargo-fuzz. There is no `unsafe` in the code under test, so no sanitizer slows it down; overflow
# checks are on.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../fuzz" || exit 1

seconds=${1:-60}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)

failed=()
for target in "${targets[@]}"; do
    mkdir -p "grown/$target"
    log="grown/$target.log"
    cargo +nightly fuzz run --sanitizer none "$target" "grown/$target" "corpus/$target" -- \
        "-max_total_time=$seconds" -rss_limit_mb=2048 -malloc_limit_mb=256 -timeout=10 -print_final_stats=1 \
        >"$log" 2>&1 || failed+=("$target")
    printf '%-28s %s executions, %s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(grep -oE 'cov: [0-9]+' "$log" | tail -1)"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "findings in: ${failed[*]} (fuzz/artifacts, fuzz/grown/*.log)"
    exit 1
fi
