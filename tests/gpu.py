"""Fine-tune Lite0 and CLIP ViT-B/16 on a GPU and measure it: ``python -m tests.gpu DATA_ROOT OUT``.

For each network: losses of the first steps beside those of the CPU, both in float32; then every epoch of LIVEC's
split 0 with its seconds, the share of time spent waiting for crops, model FLOPs utilisation (MFU), peak memory and
PLCC. OUT receives losses.csv and epochs.csv. Exit 1 if losses differ by more than TOLERANCE.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmcl_core import Recipe, load_benchmark, make_split
from lmcl_core.common.devices import resolve_device
from lmcl_core.data.store import ImageStore
from lmcl_core.trainer import Batch, Trainer

TOLERANCE = 0.02  # relative, of the loss averaged over five steps


class Timed(Trainer):
    """A trainer that knows how long it waited for batches."""

    waited, steps = 0.0, 0

    def load(self, batches, generator) -> Iterator[Batch]:
        """Load batches and measure the time until each is there."""
        loaded = iter(super().load(batches, generator))
        while True:
            start = time.perf_counter()
            batch = next(loaded, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            self.steps += 1
            yield batch


def step_flops(trainer: Trainer) -> int:
    """FLOPs of a step: forward and backward passes of student and teacher on one batch."""
    generator = torch.Generator().manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        trainer.step(trainer._load(trainer.batches(generator)[0], generator))
    return counter.get_total_flops()


def first_losses(trainer: Trainer, steps: int) -> list[float]:
    """Losses of the first steps of the first epoch."""
    generator = torch.Generator().manual_seed(0)
    batches = trainer.load(trainer.batches(generator)[:steps], generator)
    trainer.student.train()
    return [float(trainer.step(batch)["loss"]) for batch in batches]


def same_losses(make, device: str, steps: int) -> pd.DataFrame:
    """Losses by step on the CPU and on the device, in float32, and the relative difference of their running mean."""
    trainers = {name: make(Trainer, name, precision="32-true") for name in ("cpu", device)}
    found = pd.DataFrame({name: first_losses(trainer, steps) for name, trainer in trainers.items()})
    smooth = found.rolling(5, min_periods=1).mean()
    return found.assign(difference=(smooth.iloc[:, -1] / smooth["cpu"] - 1).abs())


def epochs(trainer: Timed, flops: int, peak_tflops: float, count: int) -> Iterator[dict]:
    """One row per epoch."""
    cuda = trainer.device.type == "cuda"
    for _ in range(min(count, trainer.recipe.epochs)):
        trainer.waited, trainer.steps = 0.0, 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        print(trainer.run_epoch(), flush=True)
        last, seconds = trainer.last, trainer.history[-1]["train_seconds"]
        used = flops * trainer.steps / seconds / (peak_tflops * 1e12)
        memory = torch.cuda.max_memory_allocated() / 1e9 if cuda else float("nan")
        row = dict(epoch=trainer.epoch, seconds=seconds, waiting=trainer.waited / seconds, mfu=used, peak_gb=memory)
        yield row | dict(plcc=last["plcc"], srcc=last["srcc"])


def main() -> None:
    """Measure, print and save both tables; the exit code says whether the losses agree."""
    parser = argparse.ArgumentParser("tests.gpu", description=__doc__)
    parser.add_argument("data_root", help="folder that holds LIVEC, or `demo`")
    parser.add_argument("out", help="folder for the two tables", type=Path)
    parser.add_argument("--networks", default="lite0,clip-b16", help="names of networks")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=20, help="steps of the comparison of losses")
    parser.add_argument("--epochs", type=int, default=99, help="epochs at most")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the device in bfloat16; 989: H100, H200")
    given = parser.parse_args()
    device = resolve_device(given.device)
    demo = given.data_root == "demo"
    table = load_benchmark("demo") if demo else load_benchmark("livec", given.data_root)
    split, losses, rows = make_split(table, 0), [], []
    given.out.mkdir(parents=True, exist_ok=True)
    for network in given.networks.split(","):

        def make(kind, where: str, network: str = network, **changes) -> Trainer:
            recipe = Recipe.for_benchmark(table, network=network, **changes)
            return kind(table, split, recipe, ImageStore.open(table, recipe.short_side), where)

        if device != "cpu":
            losses.append(same_losses(make, device, given.steps).assign(network=network))
        flops = step_flops(make(Trainer, device))
        for row in epochs(make(Timed, device), flops, given.peak_tflops, given.epochs):
            rows.append(dict(network=network, **row))
            pd.DataFrame(rows).to_csv(given.out / "epochs.csv", index=False, float_format="%.5g")
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3g"))
    if losses:
        compared = pd.concat(losses)
        compared.to_csv(given.out / "losses.csv", index=False, float_format="%.6g")
        worst = compared.groupby("network")["difference"].max()
        print(f"largest difference of losses from the CPU's: {worst.to_dict()} (tolerance {TOLERANCE})")
        sys.exit(int((worst > TOLERANCE).any()))


if __name__ == "__main__":
    main()
