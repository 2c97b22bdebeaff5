#!/bin/sh
# Compares sesrec with PyTorch and ONNX Runtime, both without and with item tables, on one thread and on two:
# benches/peers/run.sh [--rounds N ...]
# Installs both from PyPI into benches/peers/.venv (about 6 GB: PyPI's PyTorch comes with its GPU libraries).
set -eu
cd "$(dirname "$0")"
if [ ! -x .venv/bin/python ] || [ ! -f .venv/complete ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --requirement requirements.txt
    touch .venv/complete
fi
binary=$(cargo build --release --bench peer --message-format json | .venv/bin/python -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "peer":
        print(message["executable"])')
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"$binary" prepare "$directory" 10 100 1000 10000
for threads in 1 2; do
    .venv/bin/python compare.py "$binary" "$directory" --threads "$threads" "$@"
done
