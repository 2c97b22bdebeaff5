"""The same model in PyTorch on a GPU, beside `cargo bench --features cuda --bench device`: one user's candidates scored with
the history encoded before (`score`) and anew (`rank`), from host memory to host memory, like ours.

    cargo bench --bench peer -- prepare DIR 10 100 1000 10000 100000 && python benches/peers/device.py DIR
"""

import json
import pathlib
import statistics
import sys
import time

import torch
from safetensors.torch import load_file

from sesrec_torch import SesRec, WithItemTables, history


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
    with torch.inference_mode():
        expected = [on_cpu(*inputs, rows) for rows in lists]
        model = on_cpu.cuda()
        tables = WithItemTables(model).eval().cuda()
        on_device = [value.cuda() for value in inputs]
        for precision in ["highest", "high"]:
            torch.set_float32_matmul_precision(precision)
            print(f"{'f32' if precision == 'highest' else 'TF32'}: median time, candidates/s, largest difference from the CPU's scores")
            for rows, right in zip(lists, expected):
                encoded = model.encode(*on_device)
                ways = {
                    "score": lambda: model.score(*encoded, rows.cuda()).cpu(),
                    "rank": lambda: model(*[value.cuda() for value in inputs], rows.cuda()).cpu(),
                    "rank, item tables": lambda: tables(*[value.cuda() for value in inputs], rows.cuda()).cpu(),
                }
                for name, way in ways.items():
                    far = (way() - right).abs().max().item()
                    seconds = median_time(way)
                    print(f"{len(rows):8} {name:18} {1e6 * seconds:10.1f} us {len(rows) / seconds / 1e6:8.2f} M/s   {far:.1e}")


main()
