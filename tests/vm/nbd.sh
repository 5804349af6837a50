# shellcheck shell=bash
# NBD servers for scenarios.

# start_nbd_server SOCKET COMMAND...: returns once it listens. Sets nbd_pid.
start_nbd_server() {
    local socket=$1
    shift
    rm -f "$socket"
    start_background "$RESULT_DIR/nbd-server.log" "$@"
    nbd_pid=$background_pid
    wait_for 10 test -S "$socket"
}

# start_nbdkit SOCKET ARGUMENT...
start_nbdkit() {
    local socket=$1
    shift
    start_nbd_server "$socket" nbdkit --foreground --unix "$socket" "$@"
}

# A section of the configuration.
nbd_device() {
    local name=$1 uri=$2
    shift 2
    printf '[device %s]\nhandler = nbd\nuri = %s\n' "$name" "$uri"
    printf '%s\n' "$@" ''
}
