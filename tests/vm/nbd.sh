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

# make_certificates FOLDER: of an authority and of a server on localhost; FOLDER/client has what a
# client needs.
make_certificates() (
    mkdir -p "$1/client"
    cd "$1" || exit 1
    printf '%s\n' 'cn = authority' ca cert_signing_key >ca.info
    printf '%s\n' 'cn = localhost' 'dns_name = localhost' tls_www_server signing_key >server.info
    for name in ca server; do
        certtool --generate-privkey --key-type=ecdsa --outfile="$name-key.pem"
    done
    certtool --generate-self-signed --load-privkey=ca-key.pem --template=ca.info --outfile=ca-cert.pem
    certtool --generate-certificate --load-ca-certificate=ca-cert.pem --load-ca-privkey=ca-key.pem \
        --load-privkey=server-key.pem --template=server.info --outfile=server-cert.pem
    cp ca-cert.pem client/
) 2>"$RESULT_DIR/certtool.log"
