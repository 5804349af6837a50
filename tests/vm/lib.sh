# shellcheck shell=bash
# What scenarios share. A scenario is an executable in scenarios/ that begins
#
#   #!/bin/bash
#   # What must hold, in a sentence.
#   # timeout: 60
#   . "$SOURCE_DIR/tests/vm/lib.sh"
#
# and passes by reaching its end. It runs as root, in a root filesystem that is
# its own: files need no cleaning up, devices and processes do (see defer).
# Header comments: `vm --help`, and CMakeLists.txt for those about CTest.

set -euo pipefail

fail() {
    echo "FAIL: $*" >&2
    exit 1
}

# Runs a command that must succeed.
check() {
    "$@" || fail "exit code $?: $*"
}

# Runs a command that must fail.
check_fails() {
    if "$@"; then fail "should have failed: $*"; fi
}

# Polls until the command succeeds, for at most so many seconds.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        if ((SECONDS >= deadline)); then fail "did not come true in time: $*"; fi
        sleep 0.1
    done
}

# --- cleaning up -------------------------------------------------------------

deferred=()

# Runs the command when the scenario ends, however it ends; the last first.
defer() {
    deferred+=("$(printf '%q ' "$@")")
}

# Runs the command when the scenario fails, before anything is cleaned up: it prints what there is to see.
on_failure() {
    failure_reports+=("$(printf '%q ' "$@")")
}
failure_reports=()

run_deferred() {
    local exit_code=$? i
    trap '' TERM
    set +e
    if ((exit_code)); then
        for ((i = 0; i < ${#failure_reports[@]}; i++)); do eval "${failure_reports[i]}"; done
    fi
    if ((exit_code)) && [[ -s ${runner_log-} ]]; then
        echo "--- end of the runner's log, all of it in the results ---"
        tail -n 60 "$runner_log"
        echo "---"
    fi
    for ((i = ${#deferred[@]} - 1; i >= 0; i--)); do eval "${deferred[i]}"; done
    exit "$exit_code"
}
trap run_deferred EXIT
trap 'fail "stopped by SIGTERM: out of time?"' TERM

# --- programs in the background ------------------------------------------------

# start_background LOG COMMAND...: sets background_pid; is stopped at the end.
start_background() {
    local log=$1
    shift
    "$@" >>"$log" 2>&1 </dev/null &
    background_pid=$!
    defer stop_background "$background_pid"
}

is_running() {
    local state
    state=$(awk '/^State:/ { print $2 }' "/proc/$1/status" 2>/dev/null) && [[ $state != Z ]]
}

# stop_background PID [SIGNAL [SECONDS]]: this process and no other, by SIGKILL
# when it has not gone in time. Returns its exit code.
stop_background() {
    local pid=$1 deadline=$((SECONDS + ${3-10}))
    kill -s "${2-TERM}" "$pid" 2>/dev/null || true
    while is_running "$pid"; do
        if ((SECONDS >= deadline)); then
            echo "process $pid ($(cat "/proc/$pid/comm")) does not end on SIG${2-TERM}: SIGKILL" >&2
            kill -KILL "$pid"
            break
        fi
        sleep 0.05
    done
    wait "$pid"
}

# udev does not run unless a scenario wants it.
start_udevd() {
    [[ -x /lib/systemd/systemd-udevd ]] || fail "udev is not installed"
    start_background "$RESULT_DIR/udevd.log" /lib/systemd/systemd-udevd
    wait_for 10 test -S /run/udev/control
    unset DM_DISABLE_UDEV
}

# --- the runner ------------------------------------------------------------------

runner_log=$RESULT_DIR/runner.log

# start_runner CONFIG [NAME...]: returns once every /dev/ublk/NAME is a block
# device; fails at once, with the log, when the runner ends before. Sets
# runner_pid. RUNNER, HANDLER_DIR and the array RUNNER_ARGS change the command
# line, RUNNER_START_SECONDS the patience. Where CONFIG does not say io_threads there
# is one for each CPU, not the default half of that: two are needed to see that
# queues don't disturb each other.
start_runner() {
    local config=$1 name deadline=$((SECONDS + ${RUNNER_START_SECONDS-30}))
    shift
    mkdir -p "$config.d"
    if grep -qs '^io_threads' "$config"; then
        rm -f "$config.d/threads.conf"
    else
        printf '[runner]\nio_threads = %d\n' "$(nproc)" >"$config.d/threads.conf"
    fi
    echo "--- runner started at $(date +%T) ---" >>"$runner_log"
    start_background "$runner_log" "${RUNNER-$BUILD_DIR/runner/ublk-runner}" --foreground \
        --config "$config" --handler-dir "${HANDLER_DIR-$BUILD_DIR/handlers}" \
        --log-level debug "${RUNNER_ARGS[@]}"
    runner_pid=$background_pid
    for name; do
        until [[ -b /dev/ublk/$name ]]; do
            is_running "$runner_pid" || fail "the runner ended before /dev/ublk/$name was there"
            ((SECONDS < deadline)) || fail "/dev/ublk/$name does not come"
            sleep 0.05
        done
    done
}
RUNNER_ARGS=()

# stop_runner [SIGNAL]: it must end by itself, with SIGTERM by the exit status RUNNER_STATUS (0).
stop_runner() {
    local signal=${1-TERM} exit_code=0
    is_running "$runner_pid" || fail "the runner has already ended"
    stop_background "$runner_pid" "$signal" "${RUNNER_STOP_SECONDS-30}" || exit_code=$?
    if [[ $signal == TERM ]] && ((exit_code != ${RUNNER_STATUS-0})); then
        fail "the runner ended with $exit_code on SIGTERM"
    fi
}

# --- block devices -----------------------------------------------------------------

# in_flight NAME: so many requests the block layer has given to the device, and waits for.
in_flight() {
    awk '{ print $9 }' "/sys/block/$(basename "$(readlink -f "/dev/ublk/$1")")/stat"
}

assert_block_device() {
    [[ -b $1 ]] || fail "$1 is no block device"
}

# fio_verify DEVICE [FIO OPTION...]: writes all of the device, but at most 64 MiB,
# in random order and mixed sizes, and reads it back with a crc in every block.
# With --verify_only it only checks what an earlier call wrote. Later options win
# over those here.
fio_verify() {
    local device=$1 json=$RESULT_DIR/fio.json bytes
    shift
    # fio would make a plain file of this name and test that.
    assert_block_device "$device"
    bytes=$(blockdev --getsize64 "$device")
    if ((bytes > 64 << 20)); then bytes=$((64 << 20)); fi
    check fio --name=verify --filename="$device" --size="$bytes" --rw=randwrite \
        --bsrange=4k-128k --ioengine=io_uring --iodepth=16 --direct=1 \
        --verify=crc32c --do_verify=1 --verify_fatal=1 --randrepeat=1 \
        --output-format=json --output="$json" "$@"
    # Warnings come before the JSON. It also succeeds when it has verified nothing.
    sed -i -n '/^{/,$p' "$json"
    jq -e --arg options "$*" '.jobs | map(.error == 0 and .read.io_bytes > 0
        and (($options | contains("verify_only")) or .read.io_bytes >= .write.io_bytes)) | all' \
        "$json" >/dev/null || fail "fio verified nothing, see fio.json"
}
