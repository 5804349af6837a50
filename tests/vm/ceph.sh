# shellcheck shell=bash
# A Ceph cluster for scenarios, on loopback: a monitor and two OSDs. Each object is on both OSDs
# (size 2), and either of them is enough to go on (min_size 1). It has the pool rbd, and the users
# admin, reader and tenant, who has the namespace of that name. Its configuration and keys are in
# /etc/ceph, so Ceph's programs need no options.
#
# OSD_STORE, before start_ceph: memstore, which a killed OSD takes with it, or bluestore, which is
# still on the tmpfs when it starts again.

ceph_dir=/tmp/ceph
osd_pids=()

# No manager: it takes longer to start than all the others, and only counts.
ceph_configuration() {
    cat <<END
[global]
mon host = v2:127.0.0.1:3300
public addr = 127.0.0.1
log file = $RESULT_DIR/ceph-\$type.\$id.log
admin socket = $ceph_dir/\$type.\$id.\$pid.asok
keyring = /etc/ceph/ceph.keyring
auth allow insecure global id reclaim = false
[client]
log file = $RESULT_DIR/ceph-client.log
[mon]
mon data = $ceph_dir/mon
# The word of one OSD is enough.
mon osd min down reporters = 1
mon osd reporter subtree level = osd
osd pool default size = 2
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
[osd]
log file = $RESULT_DIR/ceph-osd.\$id.\$pid.log
osd data = $ceph_dir/osd.\$id
osd objectstore = ${OSD_STORE-memstore}
memstore device bytes = 1073741824
bluestore block size = 1073741824
bluestore cache autotune = false
bluestore cache size = 67108864
END
}

# A key as Ceph writes it: its type, when it was made, its length, and the key itself.
new_ceph_key() {
    { printf '\1\0\0\0\0\0\0\0\0\0\20\0'; head -c 16 /dev/urandom; } | base64
}

# ceph_user NAME MON-CAPABILITY OSD-CAPABILITY: of a keyring.
ceph_user() {
    printf '[%s]\nkey = %s\ncaps mon = "%s"\ncaps osd = "%s"\n' "$1" "$(new_ceph_key)" "$2" "$3"
}

# start_ceph: returns once both OSDs serve.
start_ceph() {
    local uuids=("$(uuidgen)" "$(uuidgen)") id
    mkdir -p "$ceph_dir" /etc/ceph
    ceph_configuration >/etc/ceph/ceph.conf
    {
        for id in mon. client.admin osd.0 osd.1; do ceph_user "$id" 'allow *' 'allow *'; done
        ceph_user client.reader 'profile rbd' 'profile rbd-read-only'
        ceph_user client.tenant 'profile rbd' 'profile rbd pool=rbd namespace=tenant'
    } >/etc/ceph/ceph.keyring
    check monmaptool --create --addv a '[v2:127.0.0.1:3300]' "$ceph_dir/monmap" >/dev/null
    check ceph-mon --mkfs -i a --monmap "$ceph_dir/monmap" --keyring /etc/ceph/ceph.keyring
    on_failure show_ceph
    start_background "$RESULT_DIR/ceph-mon.out" ceph-mon -f -i a
    mon_pid=$background_pid
    check ceph >"$RESULT_DIR/ceph.out" 2>&1 <<END
osd new ${uuids[0]}
osd new ${uuids[1]}
osd pool create rbd 8
osd pool application enable rbd rbd
END
    for id in 0 1; do
        mkdir "$ceph_dir/osd.$id"
        check ceph-osd --mkfs -i "$id" --osd-uuid "${uuids[id]}" >>"$RESULT_DIR/ceph-osd.out" 2>&1
        start_osd "$id"
    done
    for id in 0 1; do wait_for_osd "$id"; done
}

start_osd() {
    start_background "$RESULT_DIR/ceph-osd.out" ceph-osd -f -i "$1"
    osd_pids[$1]=$background_pid
}

# kill_osd ID [SIGNAL]
kill_osd() {
    stop_background "${osd_pids[$1]}" "${2-KILL}" 30 || true
}

# Not by asking the monitor: that takes long, and may still believe in the one that was killed.
wait_for_osd() {
    wait_for 60 grep -qs 'booting -> active' "$RESULT_DIR/ceph-osd.$1.${osd_pids[$1]}.log"
}

show_ceph() {
    echo '--- ceph ---'
    timeout 20 ceph --connect-timeout 10 status
    timeout 20 ceph --connect-timeout 10 osd dump
    tail -n 20 "$RESULT_DIR"/ceph-*.out
    echo '---'
}

# create_images SIZE NAME...: of rbd, in one process, since each takes seconds to start; Debian's
# Python, which has its modules.
create_images() {
    check /usr/bin/python3 - "$@" <<'END'
import sys, rados, rbd
with rados.Rados(conffile="", rados_id="admin") as cluster, cluster.open_ioctx("rbd") as pool:
    for name in sys.argv[2:]:
        rbd.RBD().create(pool, name, int(sys.argv[1]) << 20)
END
}
