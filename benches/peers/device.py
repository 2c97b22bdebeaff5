"""The same model in PyTorch on a GPU, beside `cargo bench --features cuda --bench device`: one user's candidates scored with
the history encoded before (`score`) and anew (`rank`), from host memory to host memory, like ours. Encoded users stay on the
GPU, as ours do; "item tables" has what ours has there, too. Operator by operator: neither torch.compile nor CUDA graphs, and
one request at a time.

    cargo bench --bench peer -- prepare DIR 10 100 1000 10000 100000 && python benches/peers/device.py DIR
"""

import json
import pathlib
import statistics
import sys
import time

import torch
from safetensors.torch import load_file

from sesrec_torch import SesRec, WithItemTables, difference, history

# By PyTorch's name of a precision: ours, and how far scores may be from the CPU's. PyTorch encodes the history in TF32, too,
# which can move an event across the threshold between similar and dissimilar ones: with products rounded to TF32 on a CPU,
# scores were 1.1e-4 to 2.5e-4 away for 23 of 24 random users, and 0.04 for the one that had such an event.
PRECISIONS = {"highest": ("f32", 1e-5), "high": ("TF32", 1e-3)}


def median_time(call, seconds=0.4):
    for _ in range(3):
        call()
    times, begun = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    directory = pathlib.Path(sys.argv[1])
    case = json.loads((directory / "case.json").read_text())
    config = json.loads((directory / "bundle" / "config.json").read_text())
    keys = ["item_attributes", "user_attributes"]
    attributes = [{name: torch.tensor(rows) for name, rows in case[key].items()} for key in keys]
    on_cpu = SesRec(load_file(directory / "bundle" / "model.safetensors"), config, *attributes).eval()
    inputs = history(case, config)
    lists = [torch.tensor(rows) for rows in case["candidates"]]
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    strongest = []
    with torch.inference_mode():
        expected = [on_cpu(*inputs, rows) for rows in lists]
        model = on_cpu.cuda()
        tables = WithItemTables(model).eval().cuda()
        on_device = [value.cuda() for value in inputs]

        def ways(rows):
            encoded, with_tables = model.encode(*on_device), tables.encode(*on_device)
            return {
                "score": lambda: model.score(*encoded, rows.cuda()).cpu(),
                "score, item tables": lambda: tables.score(*with_tables, rows.cuda()).cpu(),
                "rank": lambda: model(*[value.cuda() for value in inputs], rows.cuda()).cpu(),
                "rank, item tables": lambda: tables(*[value.cuda() for value in inputs], rows.cuda()).cpu(),
            }

        for setting, (precision, tolerance) in PRECISIONS.items():
            torch.set_float32_matmul_precision(setting)
            print(f"{precision}: median time, candidates/s, largest difference from the CPU's scores (at most {tolerance})")
            for rows, right in zip(lists, expected):
                times = {}
                for name, way in ways(rows).items():
                    far = difference(f"{name}, {precision}", way(), right, tolerance)
                    times[name] = median_time(way)
                    print(f"{len(rows):8} {name:18} {1e6 * times[name]:10.1f} us {len(rows) / times[name] / 1e6:8.2f} M/s   {far:.1e}")
                for measure in ["score", "rank"]:
                    name = min((name for name in times if name.startswith(measure)), key=times.get)
                    strongest.append(f"{len(rows):8} {precision:4} {name:18} {1e6 * times[name]:10.1f} us")
    print("the fastest with the user encoded before and anew, to hold beside ours")
    print("\n".join(strongest))


main()
