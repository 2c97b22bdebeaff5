#!/usr/bin/env bash
# Runs every test. Installs what they need: redis-server (the histories' tests drive real ones).
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v redis-server >/dev/null; then
    echo "installing redis-server for the history tests"
    as_root=""
    [ "$(id -u)" = 0 ] || as_root=sudo
    if command -v apt-get >/dev/null; then
        $as_root apt-get update -qq && $as_root apt-get install -y -qq redis-server >/dev/null
    elif command -v dnf >/dev/null; then
        $as_root dnf install -y -q redis
    elif command -v brew >/dev/null; then
        brew install --quiet redis
    else
        echo "no apt-get, dnf or brew here: install redis-server 6.2 or newer by hand, then run this again" >&2
        exit 1
    fi
fi

cargo test --locked "$@"
