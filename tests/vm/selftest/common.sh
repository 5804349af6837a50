# shellcheck shell=bash
# For the tests of the rig itself, which run on the host. Each keeps its VMs in
# a folder of its own, so that it never meets a VM that others use.

set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
vm=$here/../vm
# One kernel is enough: what is tested is the host's side.
kernel=${UBLK_VM_SELFTEST_KERNEL:-7.2}
work=$(mktemp -d)
export UBLK_VM_STATE=$work/state
export BUILD_DIR=$work/build

end() {
    local exit_code=$?
    "$vm" stop "$kernel" || true
    if ((exit_code)) && [[ -f $work/out ]]; then cat "$work/out"; fi
    rm -rf "$work"
    exit "$exit_code"
}
trap end EXIT

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

# expect EXIT_CODE vm's arguments...: what it prints is then in $work/out.
expect() {
    local wanted=$1 got=0
    shift
    timeout 300 "$vm" "$@" >"$work/out" 2>&1 || got=$?
    ((got == wanted)) || fail "vm $*: exit code $got instead of $wanted"
}

says() {
    grep -Eq -- "$1" "$work/out" || fail "nothing is said of: $1"
}

# No process of any VM in $UBLK_VM_STATE.
assert_nothing_left() {
    local process
    for _ in {1..100}; do
        left=
        for process in /proc/[0-9]*; do
            case $(readlink "$process/cwd") in
                "$UBLK_VM_STATE"/*) left+=" $(cat "$process/comm" 2>/dev/null)" ;;
            esac
        done
        [[ $left ]] || return 0
        sleep 0.1
    done
    fail "left running:$left"
}
