#!/usr/bin/env python3
"""AppendEvents over Redis beside what Redis does with the same script calls: benches/peers/appends.py [--rounds N]

Needs redis-server, redis-cli, redis-benchmark and `cargo build --release`. Starts a Redis of its own, makes a small model
from synthetic logs, and measures in turn, each on an emptied Redis:

- `sesrec bench append` against `sesrec serve`, 8 streams of 256 unacknowledged events;
- the same script calls, recorded by MONITOR from such a run, each connection's again over one of its own, as many in a
  pipeline as the server sends; as redis-benchmark would, whose arguments end at a zero byte, which every event has. That
  this is no slower than redis-benchmark shows in a call that both can make: loading a user's history.

All of it shares this machine's cores. Processor time per event tells what each spends: Redis's own is what a Redis on a
machine of its own would be limited by.
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
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of the server: `RedisOptions::connections`, and `PIPELINE` of src/history/redis/store.rs.
CONNECTIONS, PIPELINE = 2, 128
USERS = 10_000
APPLIED = re.compile(rb"\*2\r\n\$7\r\nAPPLIED\r\n\$16\r\n\d{16}\r\n")
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

    def recorded_calls(self, do):
        """The script calls that `do` makes, as arguments, by connection."""
        monitor = subprocess.Popen(["redis-cli", "-p", str(self.port), "MONITOR"], stdout=subprocess.PIPE, text=True)
        monitor.stdout.readline()
        failures = []

        def work():
            try:
                do()
            except SystemExit as failure:  # a thread's ends nothing
                failures.append(failure)
            finally:
                self.cli("ECHO", "the end")

        marker = threading.Thread(target=work)
        marker.start()
        calls = {}
        for line in monitor.stdout:
            if '"ECHO" "the end"' in line:
                break
            # Commands of scripts have "lua" in place of an address.
            match = re.match(r'[\d.]+ \[\d+ ([^l].*?)\] ("EVALSHA".*)', line)
            if match:
                arguments = [ast.literal_eval("b" + text) for text in re.findall(r'"(?:[^"\\]|\\.)*"', match[2])]
                calls.setdefault(match[1], []).append(arguments)
        monitor.terminate()
        marker.join()
        if failures:
            raise failures[0]
        return list(calls.values())

    def replay(self, connections):
        """Sends what each connection sends, pipeline by pipeline; answers per second, and whether all were applied."""

        def work(pipelines, answers):
            with socket.create_connection(("127.0.0.1", self.port)) as client:
                for pipeline, count in pipelines:
                    client.sendall(pipeline)
                    received, lines = [], 0
                    while lines < count * answers:
                        received.append(client.recv(1 << 20))
                        lines += received[-1].count(b"\n")
                    yield b"".join(received)

        def run(pipelines, answers, into):
            into.extend(work(pipelines, answers))

        outcomes = [[] for _ in connections]
        threads = [threading.Thread(target=run, args=(*connection, into)) for connection, into in zip(connections, outcomes)]
        started = time.perf_counter()
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        seconds = time.perf_counter() - started
        count = sum(count for pipelines, _ in connections for _, count in pipelines)
        return count / seconds, b"".join(b"".join(into) for into in outcomes)


def pipelines(calls):
    """Calls as Redis reads them, so many at a time."""
    encode = lambda call: b"*%d\r\n" % len(call) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in call)
    parts = [calls[first : first + PIPELINE] for first in range(0, len(calls), PIPELINE)]
    return [(b"".join(map(encode, part)), len(part)) for part in parts]


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
        [sesrec, "serve", "--model", "model", "--listen", address, "--metrics-listen", "off", "--log", "error", "--store-timeout", "20s"]
        + ["--store", f"redis://127.0.0.1:{redis.port}"],
        cwd=directory,
    )

    def append(seconds):
        quietly(
            *["bench", "append", "--server", f"http://{address}", "--data", "data"],
            *["--users", str(USERS), "--duration", f"{seconds}s", "--json", "appends.json"],
        )
        return json.loads((pathlib.Path(directory) / "appends.json").read_text())["runs"][0]

    def listens():
        with socket.socket() as client:
            return client.connect_ex(tuple([address.split(":")[0], int(address.split(":")[1])])) == 0

    try:
        wait_for("sesrec serve", listens)
        calls = redis.recorded_calls(lambda: append(options.seconds))
        loads = [call for connection in calls for call in connection if len(call) == 15]
        # An append has its side and its element behind what all calls have; the answer is five lines.
        appends = [[call for call in connection if len(call) == 16] for connection in calls]
        appends = [(pipelines(connection), 5) for connection in appends if connection]
        count = sum(count for connection, _ in appends for _, count in connection)

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

        def theirs():
            rate, answers = redis.replay(appends)
            if len(APPLIED.findall(answers)) != count:
                sys.exit(f"of {count} calls not all were applied: {answers[:200]}")
            return rate, count

        def loading():
            """By redis-benchmark, and by ourselves."""
            redis.cli("FLUSHALL")
            command = ["redis-benchmark", "-p", str(redis.port), "-c", str(CONNECTIONS), "-P", str(PIPELINE), "--csv"]
            command += ["-n", "200000", *(text.decode() for text in loads[0])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rate = float(done.stdout.splitlines()[-1].split('","')[1])
            # A user without a history: its version, nothing erased, three empty lists.
            connection = (pipelines([loads[0]] * 100_000), 8)
            return rate, redis.replay([connection] * CONNECTIONS)[0]

        if not loads:
            sys.exit("the server loaded no history")
        rounds = [(measured(ours), measured(theirs), loading()) for _ in range(options.rounds)]
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
    print(f"| the same calls, {len(appends)} connections, pipelines of {PIPELINE} | {middle(1, 0):,.0f} | {middle(1, 1):.1f} | |")
    ratios = sorted(a[0] / b[0] for a, b, _ in rounds)
    print(f"\nratio of events/s: {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(
        f"loading an empty history: redis-benchmark -c {CONNECTIONS} -P {PIPELINE} {middle(2, 0):,.0f}/s, "
        f"replayed like the appends {middle(2, 1):,.0f}/s"
    )


if __name__ == "__main__":
    main()
