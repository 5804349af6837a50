# shellcheck shell=bash
# A Ceph cluster for scenarios, on loopback: a monitor and two OSDs. Each object is on both OSDs
# (size 2), and either of them is enough to go on (min_size 1). It has the pool rbd, and the users
# admin, and tenant, who has the namespace of that name. Ceph's programs need no options for it.
#
# OSD_STORE, before start_ceph: memstore, which a killed OSD takes with it, or bluestore, which is
# still on the tmpfs when it starts again.

ceph_dir=${CEPH_DIR-/tmp/ceph}
export CEPH_CONF=$ceph_dir/ceph.conf
osd_pids=()

# No manager: it takes longer to start than all the others, and only counts.
ceph_configuration() {
    cat <<END
[global]
fsid = $(uuidgen)
mon host = v2:127.0.0.1:3300
public addr = 127.0.0.1
log file = $ceph_dir/\$name.\$pid.log
debug rocksdb = 0
admin socket = $ceph_dir/\$name.\$pid.asok
keyring = $ceph_dir/keyring
auth allow insecure global id reclaim = false
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
osd data = $ceph_dir/osd.\$id
osd objectstore = ${OSD_STORE-memstore}
memstore device bytes = 1073741824
bluestore block size = 1073741824
bluestore fsck on mkfs = false
bluestore cache autotune = false
bluestore cache size = 67108864
END
}

# A key as Ceph writes it: its type, when it was made, its length, and the key itself.
new_ceph_key() {
    { printf '\1\0\0\0\0\0\0\0\0\0\20\0'; head -c 16 /dev/urandom; } | base64
}

# ceph_user NAME MON-CAPABILITY OSD-CAPABILITY: a section of a keyring.
ceph_user() {
    printf '[%s]\nkey = %s\ncaps mon = "%s"\ncaps osd = "%s"\n' "$1" "$(new_ceph_key)" "$2" "$3"
}

start_monitor() {
    local name
    {
        for name in mon. client.admin osd.0 osd.1; do ceph_user "$name" 'allow *' 'allow *'; done
        ceph_user client.tenant 'profile rbd' 'profile rbd pool=rbd namespace=tenant'
    } >"$ceph_dir/keyring"
    check monmaptool --create --addv a '[v2:127.0.0.1:3300]' "$ceph_dir/monmap" >>"$ceph_dir/out"
    check ceph-mon --mkfs -i a --monmap "$ceph_dir/monmap" --keyring "$ceph_dir/keyring"
    start_background "$ceph_dir/out" ceph-mon -f -i a
}

# Returns once both OSDs serve.
start_ceph() {
    local uuids id mkfs=()
    uuids=("$(uuidgen)" "$(uuidgen)")
    mkdir -p "$ceph_dir"/osd.{0,1}
    ceph_configuration >"$CEPH_CONF"
    start_monitor
    on_failure show_ceph
    for id in 0 1; do
        ceph-osd --mkfs -i "$id" --osd-uuid "${uuids[id]}" --monmap "$ceph_dir/monmap" \
            --no-mon-config &>>"$ceph_dir/out" &
        mkfs+=($!)
    done
    # Its Python takes long to start: once for all.
    check ceph &>>"$ceph_dir/out" <<END
osd new ${uuids[0]}
osd new ${uuids[1]}
osd pool create rbd 8
osd pool application enable rbd rbd
END
    for id in 0 1; do
        wait "${mkfs[id]}" || fail "ceph-osd --mkfs of OSD $id"
        start_osd "$id"
    done
    for id in 0 1; do wait_for_osd "$id"; done
    echo "Ceph serves after $SECONDS s"
}

start_osd() {
    start_background "$ceph_dir/out" ceph-osd -f -i "$1"
    osd_pids[$1]=$background_pid
}

# Not by asking the monitor: that takes long, and may still believe in the one that was killed.
wait_for_osd() {
    wait_for 60 grep -qs 'booting -> active' "$ceph_dir/osd.$1.${osd_pids[$1]}.log"
}

# Until each OSD has what the other has written while it was away: before that only the other can
# serve it, and I/O would wait rightly. Asked of the OSDs, since without a manager nobody else knows.
wait_until_clean() {
    check timeout 150 /usr/bin/python3 - 2>>"$RESULT_DIR/groups.log" <<'END'
import errno, json, rados, sys, time

def states(cluster):
    _, osds, _ = cluster.mon_command(json.dumps({"prefix": "osd dump", "format": "json"}), b"")
    for pool in json.loads(osds)["pools"]:
        for number in range(pool["pg_num"]):
            group = f"{pool['pool']:x}.{number:x}"
            query = {"prefix": "pg", "pgid": group, "cmd": "query", "format": "json"}
            error, answer, text = cluster.pg_command(group, json.dumps(query), b"", 20)
            if error not in (0, -errno.EAGAIN, -errno.ENOENT):  # these: it is only just coming
                raise OSError(-error, text)
            yield json.loads(answer)["state"] if error == 0 else "unknown"

with rados.Rados(conffile="", rados_id="admin") as cluster:
    while set(now := list(states(cluster))) != {"active+clean"}:
        print(*now, file=sys.stderr)
        time.sleep(0.5)
END
}

kill_osd() {
    stop_background "${osd_pids[$1]}" KILL 2>/dev/null || true
}

# show_ceph: what a scenario that has failed prints.
show_ceph() {
    echo '--- Ceph; the daemons'\'' logs are in the results ---'
    cp "$ceph_dir"/*.log "$RESULT_DIR"
    tail -n 20 "$ceph_dir/out"
    tail -n 5 "$RESULT_DIR/groups.log" 2>/dev/null
    timeout -k 1 30 ceph --connect-timeout 20 <<<$'status\nosd dump'
    echo '---'
}

# create_images MIB NAME...: in pool rbd, "tenant/NAME" in its namespace. One process for all, by
# Debian's Python, which has Ceph's modules.
create_images() {
    check /usr/bin/python3 - "$@" <<'END'
import sys, rados, rbd
with rados.Rados(conffile="", rados_id="admin") as cluster, cluster.open_ioctx("rbd") as pool:
    for name in sys.argv[2:]:
        namespace, _, image = name.rpartition("/")
        if namespace and namespace not in rbd.RBD().namespace_list(pool):
            rbd.RBD().namespace_create(pool, namespace)
        pool.set_namespace(namespace)
        rbd.RBD().create(pool, image, int(sys.argv[1]) << 20)
        pool.set_namespace("")
END
}

# rbd_device NAME KEY=VALUE...: a section of the configuration, of the image NAME in the cluster's
# pool rbd if the keys don't say otherwise.
rbd_device() {
    local name=$1 keys
    shift
    keys=$(printf '%s\n' "$@")
    printf '[device %s]\nhandler = rbd\n%s\n' "$name" "$keys"
    [[ $keys == *conf=* ]] || echo "conf = $CEPH_CONF"
    [[ $keys == *pool=* ]] || echo 'pool = rbd'
    [[ $keys == *image=* ]] || echo "image = $name"
}

# --- load ----------------------------------------------------------------------

# start_verifying NAME: fio on the device without a pause, each pass with other data, until
# stop_verifying. Neither it nor goes_on overlooks an error.
start_verifying() {
    verified=$1
    verify_on &
    verifier=$!
    goes_on
}

verify_on() {
    local pass=0
    until [[ -e /tmp/enough ]]; do
        fio_verify "/dev/ublk/$verified" --size=4m --bsrange=4k-64k --randrepeat=0 --randseed=$((++pass))
    done
    echo "fio has verified $pass times"
}

stop_verifying() {
    touch /tmp/enough
    wait "$verifier" || fail "fio has found an error"
}

# Requests of it that have been completed.
served() {
    awk '{ print $1 + $5 }' "/sys/block/$(basename "$(realpath "/dev/ublk/$verified")")/stat"
}

has_served() {
    is_running "$verifier" || fail "fio has failed"
    (($(served) >= $1))
}

# More requests than were in flight are completed.
goes_on() {
    wait_for 60 has_served $(($(served) + 50))
}
