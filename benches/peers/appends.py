#!/usr/bin/env python3
"""AppendEvents over Redis beside redis-benchmark with the same script call: benches/peers/appends.py [--rounds N]

Needs redis-server, redis-cli, redis-benchmark and `cargo build --release`. Starts a Redis of its own, makes a small model
from synthetic logs, and measures in turn, each on an emptied Redis:

- `sesrec bench append` against `sesrec serve`, 8 streams of 256 unacknowledged events;
- redis-benchmark with the call that the server made (as MONITOR shows it), over as many connections and with as many calls
  in a pipeline as the server has.

redis-benchmark can only draw new keys, not new ids inside an event, so every call of both is a new user's first event:
`--visit 1`, and users so many that hardly one comes twice. Processor time per event tells what each spends, since all of
it shares this machine's cores: Redis's own is what a Redis on a machine of its own would be limited by.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of the server: `RedisOptions::connections`, and `PIPELINE` of src/history/redis/store.rs.
CONNECTIONS, PIPELINE = 2, 128
USERS = 1_000_000_000
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_for(what, attempt):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if attempt():
            return
        time.sleep(0.05)
    sys.exit(f"{what} did not start within a minute")


class Redis:
    def __init__(self, directory, fsync):
        self.port = free_port()
        append_only = ["--appendonly", "no"] if fsync == "none" else ["--appendonly", "yes", "--appendfsync", fsync]
        command = ["redis-server", "--port", str(self.port), "--dir", directory, "--save", "", *append_only]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for("redis-server", lambda: self.cli("PING", check=False).strip() == "PONG")

    def cli(self, *arguments, check=True):
        command = ["redis-cli", "-p", str(self.port), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=check).stdout

    def recorded_call(self, do):
        """The arguments of the append that `do` makes, as bytes."""
        monitor = subprocess.Popen(["redis-cli", "-p", str(self.port), "MONITOR"], stdout=subprocess.PIPE, text=True)
        monitor.stdout.readline()
        do()
        for line in monitor.stdout:
            # Commands of scripts have "lua" in place of an address.
            line = re.match(r'[\d.]+ \[\d+ [^l].*?\] ("EVALSHA?".*)', line)
            arguments = [ast.literal_eval("b" + text) for text in re.findall(r'"(?:[^"\\]|\\.)*"', line[1])] if line else []
            # Ten before the script's own: its name, how many keys, five keys, ...; an append has its side and its element.
            if len(arguments) == 16:
                monitor.terminate()
                return arguments
        sys.exit("no append was seen")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--fsync", default="everysec", choices=["none", "everysec", "always"])
    options = arguments.parse_args()
    sesrec = str(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "sesrec")
    for program in [sesrec, "redis-server", "redis-cli", "redis-benchmark"]:
        if not shutil.which(program):
            sys.exit(f"{program} is missing" + (": cargo build --release" if program == sesrec else ""))
    with tempfile.TemporaryDirectory() as directory:
        run(options, sesrec, directory)


def run(options, sesrec, directory):
    def quietly(*command):
        done = subprocess.run([sesrec, *command], cwd=directory, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)

    quietly("synth", "--users", "200", "--items", "400", "--out", "logs")
    quietly("import", "kuaisar", "logs", "--out", "data")
    quietly("train", "--data", "data", "--out", "model", "--epochs", "1")
    redis = Redis(directory, options.fsync)
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [sesrec, "serve", "--model", "model", "--listen", address, "--metrics-listen", "off", "--log", "error"]
        + ["--store", f"redis://127.0.0.1:{redis.port}"],
        cwd=directory,
    )

    def append(seconds, *more):
        quietly(
            *["bench", "append", "--server", f"http://{address}", "--data", "data", "--visit", "1"],
            *["--users", str(USERS), "--duration", f"{seconds}s", "--json", "appends.json", *more],
        )
        return json.loads((pathlib.Path(directory) / "appends.json").read_text())["runs"][0]

    def listens():
        with socket.socket() as client:
            return client.connect_ex(tuple([address.split(":")[0], int(address.split(":")[1])])) == 0

    try:
        wait_for("sesrec serve", listens)
        call = redis.recorded_call(lambda: append(1, "--streams", "1", "--window", "1"))
        script = redis.cli("SCRIPT", "EXISTS", call[1].decode()).strip()
        if call[0] != b"EVALSHA" or script != "1":
            sys.exit("the recorded call is not one by hash")
        # Each key gets a number of its own: all of them are new.
        keys = [re.sub(rb"\{.*\}", b"{__rand_int__}", key).decode() for key in call[3:8]]
        benchmark = ["redis-benchmark", "-p", str(redis.port), "-c", str(CONNECTIONS), "-P", str(PIPELINE), "-r", str(USERS)]
        benchmark += ["--csv", "-x", "EVALSHA", call[1].decode(), "5", *keys, *(text.decode() for text in call[8:15])]

        def measured(work):
            redis.cli("FLUSHALL")
            processes = [redis.process.pid, server.pid]
            before = [processor_seconds(pid) for pid in processes]
            rate, events = work()
            after = [processor_seconds(pid) for pid in processes]
            return [rate] + [1e6 * (b - a) / events for a, b in zip(before, after)]

        def ours():
            done = append(options.seconds)
            return done["achieved"], done["answered"]

        def theirs(count):
            done = subprocess.run([*benchmark, "-n", str(count)], input=call[15], capture_output=True, check=True)
            rate = float(done.stdout.decode().splitlines()[-1].split('","')[1])
            kept = int(redis.cli("DBSIZE").strip())
            if kept < count:
                sys.exit(f"redis-benchmark: {count} calls left {kept} keys: they were refused")
            return rate, count

        theirs(20_000)
        count = int(options.seconds * theirs(50_000)[0])
        rounds = [(measured(ours), measured(lambda: theirs(count))) for _ in range(options.rounds)]
    finally:
        server.send_signal(signal.SIGTERM)
        redis.process.terminate()
        server.wait()
        redis.process.wait()

    middle = lambda side, column: statistics.median(round[side][column] for round in rounds)
    print(f"appendfsync {options.fsync}, {options.rounds} rounds in turn, medians\n")
    print("|  | events/s | of a core in Redis, µs per event | in sesrec serve |")
    print("|---|---|---|---|")
    print(f"| sesrec bench append | {middle(0, 0):,.0f} | {middle(0, 1):.1f} | {middle(0, 2):.1f} |")
    print(f"| redis-benchmark -c {CONNECTIONS} -P {PIPELINE} | {middle(1, 0):,.0f} | {middle(1, 1):.1f} | |")
    ratios = sorted(a[0] / b[0] for a, b in rounds)
    print(f"\nratio of events/s: {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
