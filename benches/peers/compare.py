"""Ranks of one user by PyTorch and ONNX Runtime, without and with item tables, and by sesrec, which always has one, on the
same weights: checks that scores agree, then measures all of them in turn: elapsed time, and the processor time that their
processes took, whose ratios hold on a machine that others use, too. Run by run.sh; Linux only."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import onnxruntime
import torch
from safetensors.torch import load_file

from sesrec_torch import SesRec, WithItemTables, difference, history

TOLERANCE = 1e-5


def processor_time(process):
    """Seconds that all threads of a process have run (clock_getcpuclockid)."""
    return time.clock_gettime((~process << 3) | 2)


class Ours:
    """The peer binary, asked over its standard input."""

    def __init__(self, binary, directory, counts, threads):
        command = [binary, "serve", directory, *map(str, counts)]
        # Same threads for it as for the others.
        environment = {"RAYON_NUM_THREADS": str(threads), "PATH": "/usr/bin:/bin"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("the peer binary ended: see its message above")
        return [float(value) for value in answer.split()]

    def scores(self, count):
        return torch.tensor(self.ask(f"scores {count}"))

    def measure(self, count, repeats):
        before = processor_time(self.process.pid)
        elapsed = self.ask(f"time {count} {repeats}")[0]
        return elapsed, processor_time(self.process.pid) - before


class Python:
    """A function of the candidates."""

    def __init__(self, rank, candidates):
        self.rank, self.candidates = rank, candidates

    def scores(self, count):
        return torch.as_tensor(self.rank(self.candidates[count]))

    def measure(self, count, repeats):
        candidates = self.candidates[count]
        start, before = time.perf_counter(), processor_time(os.getpid())
        for _ in range(repeats):
            self.rank(candidates)
        return time.perf_counter() - start, processor_time(os.getpid()) - before


def onnx_session(model, inputs, candidates, path, threads):
    names = ["user", "recommendations", "queries", "words", "sources", "clicks", "candidates"]
    # Not every PyTorch can export it: a graph that one of them has written serves the others, too.
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            torch.onnx.export(
                model,
                (*inputs, candidates),
                str(pathlib.Path(unfinished, path.name)),
                input_names=names,
                output_names=["scores"],
                dynamic_shapes=[None] * len(inputs) + [{0: torch.export.Dim("candidates", min=2, max=100_000)}],
                dynamo=True,
                verbose=False,
            )
            # The graph comes after the weights beside it.
            for file in sorted(pathlib.Path(unfinished).iterdir(), reverse=True):
                file.rename(path.parent / file.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fixed = {name: value.numpy() for name, value in zip(names, inputs)}
    return lambda rows: session.run(None, {**fixed, "candidates": rows.numpy()})[0]


def strongest(medians, measure):
    """The peer that is fastest by this measure, and how many times sesrec's time it takes."""
    name = min((name for name in medians if name != "sesrec"), key=lambda name: medians[name][measure])
    return f"{medians[name][measure] / medians['sesrec'][measure]:.2f}x ({name})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--candidates", type=int, nargs="+", default=[10, 100, 1000, 10000])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    case = json.loads((arguments.directory / "case.json").read_text())
    bundle = arguments.directory / "bundle"
    config = json.loads((bundle / "config.json").read_text())
    attributes = [{name: torch.tensor(rows) for name, rows in case[key].items()} for key in ["item_attributes", "user_attributes"]]
    model = SesRec(load_file(bundle / "model.safetensors"), config, *attributes).eval()
    inputs = history(case, config)
    candidates = {len(rows): torch.tensor(rows) for rows in case["candidates"]}
    tables = WithItemTables(model).eval()

    def in_torch(module):
        def rank(rows):
            with torch.inference_mode():
                return module(*inputs, rows)

        return rank

    def in_onnx(module, graph):
        with torch.no_grad():
            return onnx_session(module, inputs, candidates[max(candidates)], arguments.directory / graph, arguments.threads)

    peers = {
        "sesrec": Ours(arguments.binary, str(arguments.directory), candidates, arguments.threads),
        "PyTorch": Python(in_torch(model), candidates),
        "PyTorch, item tables": Python(in_torch(tables), candidates),
        "ONNX Runtime": Python(in_onnx(model, "sesrec.onnx"), candidates),
        "ONNX Runtime, item tables": Python(in_onnx(tables, "sesrec-item-tables.onnx"), candidates),
    }
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {platform.processor() or platform.machine()}, "
          f"threads: {arguments.threads}")
    for count in candidates:
        ours = peers["sesrec"].scores(count)
        for name, peer in peers.items():
            difference(name, peer.scores(count), ours, TOLERANCE)
    print(f"scores agree to {TOLERANCE} (they range from {ours.min():.3f} to {ours.max():.3f})")
    print(f"{'one Rank, user encoded anew':32}{'elapsed, best':>14}{'median':>10}{'ratio':>8}{'processor, median':>20}{'ratio':>8}")
    summary = []
    for count in candidates:
        repeats = max(1, 2000 // count)
        measured = {name: [] for name in peers}
        for turn in range(arguments.rounds + 2):
            for name, peer in peers.items():
                # Threads of the one before still spin, waiting for more work.
                time.sleep(0.1)
                times = [seconds / repeats for seconds in peer.measure(count, repeats)]
                # The first turns warm up.
                if turn >= 2:
                    measured[name].append(times)
        medians = {name: [statistics.median(times) for times in zip(*turns)] for name, turns in measured.items()}
        for name, turns in measured.items():
            best, (elapsed, processor) = min(turns)[0], medians[name]
            ratios = [mine / ours for mine, ours in zip(medians[name], medians["sesrec"])]
            print(f"{count:6} {name:25}{1e3 * best:11.3f} ms{1e3 * elapsed:7.3f} ms{ratios[0]:7.2f}x"
                  f"{1e3 * processor:17.3f} ms{ratios[1]:7.2f}x")
        summary.append(f"{count:6} " + "; ".join(
            f"{measure} {strongest(medians, n)}" for n, measure in enumerate(["elapsed", "processor time"])
        ))
    print("the strongest peer at each size: its median as a multiple of sesrec's")
    print("\n".join(summary))


main()
