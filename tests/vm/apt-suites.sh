# Packages of other Debian suites than the system's own, for scripts to source.
#
#   apt_suites_open DIR SUITE...   prepares DIR, reads the suites' package lists; of sources with apt_suites_type=deb-src
#   apt_suites get|cache ARG...    apt-get or apt-cache on them
#   apt_suites_download DIR PACKAGE...
#
# The mirror is the one that the system's own sources name; a private source
# list is used, so neither the system's sources nor its package database change.
# Callers define die().

# The mirror's URI, from deb822 .sources files or one-line lists. The security
# archive carries only some suites; what is wanted is the main one. Images for clouds have a file
# of mirrors instead, which apt takes here as well.
apt_suites_mirror() {
    find /etc/apt/sources.list /etc/apt/sources.list.d -name '*.list' -o -name '*.sources' | sort | xargs cat | awk '
        /^[ \t]*#/ { next }
        $1 == "URIs:" { print $2 }
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z+]+:/) { print $i; break } }
    ' | grep -E -m 1 '/debian/?$|^mirror\+file:.*/debian\.list$'
}

apt_suites_open() {
    local dir=$1 uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg suite
    shift
    uri=$(apt_suites_mirror 2>/dev/null) || true
    [[ $uri ]] || die "no Debian mirror named in /etc/apt/sources.list or sources.list.d"
    [[ -f $keyring ]] || die "$keyring is missing: install debian-archive-keyring"
    mkdir -p "$dir"/{lists,cache}/partial
    for suite in "$@"; do
        echo "${apt_suites_type:-deb} [signed-by=$keyring] $uri $suite main"
    done >"$dir/sources.list"
    apt_suites_options=(
        -o Dir::Etc::sourcelist="$dir/sources.list"
        -o Dir::Etc::sourceparts=-
        -o Dir::State::Lists="$dir/lists"
        -o Dir::Cache="$dir/cache"
        -o Acquire::Languages=none
        -o Acquire::Retries=3
        # A system that is pinned to its own release must not hide these suites.
        -o Dir::Etc::preferences=/dev/null
        -o Dir::Etc::preferencesparts=/dev/null
    )
    apt_suites get -qq update >&2 || die "cannot read the package lists of $uri"
}

apt_suites() {
    local tool=$1
    shift
    timeout 600 "apt-$tool" "${apt_suites_options[@]}" "$@"
}

apt_suites_download() {
    local dir=$1
    shift
    mkdir -p "$dir"
    (cd "$dir" && apt_suites get -o APT::Sandbox::User=root -qq download "$@") >&2 ||
        die "cannot download $*"
}
