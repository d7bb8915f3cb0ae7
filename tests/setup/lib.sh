# shellcheck shell=bash
# Sourced by the parts beside it: where the tools of the tests live, and how they get there whole.
#
# Everything lies in one folder outside the checkout. A tool is made in a folder of its own beside its place and renamed
# into it, so that an interrupted install leaves nothing that looks finished; the next run sweeps it away and starts anew.

set -euo pipefail

tools=${STOREWATCH_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/storewatch-test-tools}

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

# need COMMAND PACKAGE: installs Debian's PACKAGE where COMMAND is missing and this may be done; otherwise names the cure.
need() {
    local as_root=()
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || die "$1 is missing, and this is not root: apt-get install $2"
        as_root=(sudo -n)
    fi
    command -v apt-get >/dev/null || die "$1 is missing, and there is no apt-get to install it with"
    say "$1 is missing: installing Debian's $2"
    # A fresh machine has no lists of packages yet.
    "${as_root[@]}" apt-get -qq -y --no-install-recommends install "$2" >&2 2>/dev/null || {
        "${as_root[@]}" apt-get -qq update >&2
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$2" >&2
    }
}

# provide NAME RECIPE FUNCTION [ARGUMENT…]: makes sure that $tools/NAME holds what FUNCTION makes in the empty folder it
# is started in. RECIPE says how it is made; when it changes, the tool is made again.
provide() {
    local name=$1 recipe=$2 began=$SECONDS
    shift 2
    [ "$(cat "$tools/$name/.recipe" 2>/dev/null)" = "$recipe" ] && return
    need flock util-linux
    mkdir -p "$tools"
    (
        flock 9
        # Another run may have made it while this one waited for the lock.
        [ "$(cat "$tools/$name/.recipe" 2>/dev/null)" = "$recipe" ] && exit
        say "$name is made in $tools"
        rm -rf "$tools/.making-$name"
        mkdir "$tools/.making-$name"
        cd "$tools/.making-$name"
        "$@" 9>&-
        printf '%s\n' "$recipe" >.recipe
        rm -rf "${tools:?}/$name"
        mv "$tools/.making-$name" "$tools/$name"
        say "$name is there, after $((SECONDS - began)) s"
    ) 9>"$tools/.lock-$name"
}

# debian_sources SUITE: this machine's own apt sources of Debian itself, rewritten for another release of Debian, into
# the current folder. Mirrors, keyrings and options stay as this machine has them.
debian_sources() {
    local codename suite=$1 file
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && printf %s "${VERSION_CODENAME:-}") ||
        die "this is not a Debian machine; see the head of tests/setup/all for what the tests take instead"
    mkdir -p apt/sources
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        # Lines of Debian's own archive, not of others that use its codenames.
        grep -E '^deb(-src)?[[:space:]].*/debian(-security)?(\.list|/[0-9TZ]+)?/?[[:space:]].*[[:space:]]main\b' "$file" |
            grep '^deb[[:space:]]' | sed "s/\b$codename\b/$suite/g" >>apt/sources/debian.list || true
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        awk -v from="$codename" -v to="$suite" 'BEGIN { RS = ""; ORS = "\n\n" }
            /(^|\n)URIs:[^\n]*\/debian(-security)?(\.list|\/[0-9TZ]+)?\/?[ \t]*(\n|$)/ && /(^|\n)Components:[^\n]*main/ &&
            index($0, from) { gsub("(^|\n)#[^\n]*", ""); gsub(from, to); print }' "$file" >>apt/sources/debian.sources
    done
    find apt/sources -size 0 -delete
    [ -n "$(ls apt/sources)" ] || die "no apt source of Debian $codename was found under /etc/apt"
}

# debian_packages SUITE STATUS PACKAGE…: unpacks packages of a Debian release, with what they need, into the folder root. STATUS says what counts as installed already: dpkg's own file, or /dev/null for nothing. An apt with folders of
# its own does it, so that nothing of this machine changes.
debian_packages() {
    local suite=$1 status=$2 package
    shift 2
    debian_sources "$suite"
    mkdir -p apt/lists/partial apt/cache/archives/partial
    cat "$status" >apt/status
    cat >apt/config <<CONFIG
Dir { State "$PWD/apt"; State::status "$PWD/apt/status"; Cache "$PWD/apt/cache"; };
Dir::Etc { sourcelist "/dev/null"; sourceparts "$PWD/apt/sources"; preferencesparts "/dev/null"; };
APT { Sandbox::User ""; Install-Recommends "false"; };
Acquire { Languages "none"; IndexTargets::deb::DEP-11::DefaultEnabled "false"; Retries "3"; };
Debug::NoLocking "true";
// What this machine does after an update concerns its own lists.
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONFIG
    apt-get -c apt/config -qq update >&2
    apt-get -c apt/config -qq -y --download-only --reinstall install "$@" >&2
    mkdir root
    for package in apt/cache/archives/*.deb; do dpkg-deb -x "$package" root; done
    rm -rf apt
}
