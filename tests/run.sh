#!/usr/bin/env bash
# Runs every test. Installs what they drive where it is missing: redis-server, nginx; and promtool, which checks the metrics.
# Nothing of it is left running: the tests start servers of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

# Package names by manager: apt-get, dnf, brew.
install_package() {
    echo "installing $1 for the tests"
    local as_root=""
    [ "$(id -u)" = 0 ] || as_root=sudo
    if command -v apt-get >/dev/null; then
        .ci/apt-install "$1"
    elif command -v dnf >/dev/null; then
        $as_root dnf install -y -q "$2"
    elif command -v brew >/dev/null; then
        brew install --quiet "$3"
    else
        return 1
    fi
}

PATH=$PATH:/usr/sbin
for needed in "redis-server redis-server redis redis" "nginx nginx nginx nginx"; do
    read -r program apt dnf brew <<<"$needed"
    command -v "$program" >/dev/null || install_package "$apt" "$dnf" "$brew" || {
        echo "no apt-get, dnf or brew here: install $program by hand, then run this again" >&2
        exit 1
    }
done
# Its test says so where it is missing.
command -v promtool >/dev/null || install_package prometheus golang-github-prometheus prometheus || echo "no promtool to be had"

cargo test --locked "$@"
