#!/usr/bin/env python3
"""Training and evaluation beside the authors' PyTorch release, on the same threads:

    benches/peers/release.py --release DIR --data DATA --negatives FILE [--threads N] [--rounds N]

DIR is a clone of the authors' repository (Ethan00Si/SESREC-SIGIR-2023 on GitHub), DATA an import of Amazon Beauty, FILE its test negatives; needs PyTorch and
`cargo build --release`. In turn, per round:

- the release's own model code on random rows of the data's sizes: 20 training steps of 256 with 4 negatives (forward,
  backward, Adam with its weight decay), and `predict` for 300 users x 100 candidates, the user repeated per candidate and
  histories padded to 15, as its loader hands them out. The loader itself, Python that parses a row at a time, is left out,
  so both are faster here than the release is;
- `sesrec train --preset amazon` for one epoch, its samples/s with batches made on the way, and `sesrec evaluate` of all test
  users: the whole command, with reading the data and the model.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTH, WORDS, NEGATIVES, BATCH, ALIGNED = 15, 15, 4, 256, 1024
STEPS, TEST_USERS, CANDIDATES = 20, 300, 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", required=True, type=pathlib.Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--negatives", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sesrec = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "sesrec"
    if not sesrec.exists():
        sys.exit("sesrec is missing: cargo build --release")
    # As PyTorch and our thread pool read it.
    environment = os.environ | {"RAYON_NUM_THREADS": str(options.threads)}

    with tempfile.TemporaryDirectory() as directory:

        def ours(*command):
            started = time.perf_counter()
            done = subprocess.run([sesrec, *command], env=environment, cwd=directory, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return time.perf_counter() - started, done.stdout + done.stderr

        data = ["--data", str(pathlib.Path(options.data).resolve())]
        negatives = ["--negatives", str(pathlib.Path(options.negatives).resolve())]
        catalogue = json.loads((pathlib.Path(options.data) / "catalogue.json").read_text())
        release = Release(options.release, catalogue, options.threads)
        rounds = []
        for number in range(options.rounds):
            train, test = release.training_rate(), release.seconds_per_user()
            recipe = ["--preset", "amazon", "--epochs", "1", "--validation-users", "100", "--seed", str(number)]
            _, log = ours("train", *data, "--out", f"model{number}", *recipe, *negatives)
            rate = float(re.search(r"([\d.]+) samples/s", log)[1])
            seconds, log = ours("evaluate", "--model", f"model{number}", *data, *negatives)
            users = int(re.search(r"^model\d+ .* (\d+)$", log, re.MULTILINE)[1])
            rounds.append((train, rate, test * users, seconds))
            print(f"round {number + 1}: training {train:,.0f} and {rate:,.0f} samples/s, evaluation of {users:,} users "
                  f"{test * users:.0f} and {seconds:.1f} s")
    middle = [statistics.median(column) for column in zip(*rounds)]
    ratio = lambda a, b: statistics.median(round[a] / round[b] for round in rounds)
    print(f"\n{options.threads} threads, {options.rounds} rounds, medians\n")
    print("|  | the release | sesrec | ratio |")
    print("|---|---|---|---|")
    print(f"| training, samples/s | {middle[0]:,.0f} | {middle[1]:,.0f} | {ratio(1, 0):.1f}x |")
    print(f"| evaluation, s | {middle[2]:.0f} | {middle[3]:.1f} | {ratio(2, 3):.1f}x |")


class Release:
    """The authors' model over random rows."""

    def __init__(self, directory, catalogue, threads):
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(1)
        sys.path.insert(0, str(directory))
        from config import const

        const.init_dataset_setting_amazon()
        # All but users have a row for padding.
        self.rows = {name: catalogue[name]["rows"] for name in ["items", "users", "queries", "words"]}
        const.item_id_num, const.user_id_num = self.rows["items"], self.rows["users"]
        const.query_id_num, const.query_word_segs_num = self.rows["queries"], self.rows["words"]
        import models.Inputs

        models.Inputs.init_data_attribute_ls("amazon")
        from models.SESRec import SESRec

        settings = dict(num_blocks=1, num_heads=4, dropout=0.1, infoNCE_temp=0.1, triplet_margin=0.1, pred_hid_units=[200, 80, 1])
        self.torch, self.model = torch, SESRec(settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=1e-5)

    def histories(self, users):
        """Of random length, padded on the right."""
        torch, rows = self.torch, self.rows
        real = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (users, 1))
        row = lambda name, *shape: torch.randint(1, rows[name], shape)
        rec = row("items", users, LENGTH) * real
        queries = row("queries", users, LENGTH) * real
        words = row("words", users, LENGTH, WORDS) * (torch.arange(WORDS) < 4) * real[..., None]
        clicks = row("items", users, LENGTH, 1) * real[..., None]
        user = torch.randint(0, rows["users"], (users,))
        return [user], [rec], [queries, torch.zeros_like(queries), [clicks], words]

    def training_rate(self):
        torch, rows = self.torch, self.rows
        self.model.train()
        row = lambda name, *shape: torch.randint(1, rows[name], shape)
        batches = []
        for _ in range(STEPS + 2):
            aligned = [row("items", ALIGNED)], [row("queries", ALIGNED), row("words", ALIGNED, WORDS)]
            targets = [row("items", BATCH)], [row("items", BATCH, NEGATIVES)]
            batches.append([*self.histories(BATCH), *targets, *aligned])
        for number, batch in enumerate(batches):
            if number == 2:
                started = time.perf_counter()
            self.optimizer.zero_grad()
            bce, align, contrast = self.model(batch)
            (bce + 0.1 * align + 0.001 * contrast).backward()
            self.optimizer.step()
            bce.item(), align.item(), contrast.item()
        return STEPS * BATCH / (time.perf_counter() - started)

    def seconds_per_user(self):
        torch = self.torch
        self.model.eval()
        repeat = lambda x: [repeat(y) for y in x] if isinstance(x, (list, tuple)) else x.repeat_interleave(CANDIDATES, 0)
        users = repeat(self.histories(TEST_USERS))
        items = [torch.randint(1, self.rows["items"], (TEST_USERS * CANDIDATES,))]
        with torch.no_grad():
            self.model.predict([*self.parts(users, 0), [items[0][:CANDIDATES]]])
            started = time.perf_counter()
            self.model.predict([*users, items])
            return (time.perf_counter() - started) / TEST_USERS

    def parts(self, users, first):
        """One user's rows, to warm up with."""
        cut = lambda x: [cut(y) for y in x] if isinstance(x, (list, tuple)) else x[first : first + CANDIDATES]
        return cut(users)


if __name__ == "__main__":
    main()
