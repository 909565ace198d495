"""Does anything mix in a batch of 256? All pairs by binary codes, against one backward pass per example.

Run ``python benchmarks/batch_mixing.py``; both in one process, on one thread, from the same forward. At least ten
times faster is the aim.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from lightning_recipe.dependencies.backprop import Dependencies, layouts
from lightning_recipe.dependencies.rerun import calm

BATCH_SIZE = 256
AIM = 10


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Small networks of three kinds, and a batch for each."""
    convolutions = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    rows = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return {
        "convolutions": (convolutions, torch.randn(BATCH_SIZE, 3, 32, 32)),
        "transformer": (nn.TransformerEncoder(layer, 2), torch.randn(BATCH_SIZE, 20, 32)),
        "rows": (rows, torch.randn(BATCH_SIZE, 64)),
    }


def main() -> None:
    """Print a row for each network."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (net, x) in networks().items():
        calm(net)
        x.requires_grad_()
        y = net(x)
        chart = Dependencies([(y, layouts(y.shape, BATCH_SIZE)[0])], [(x, layouts(x.shape, BATCH_SIZE)[0])], BATCH_SIZE)
        chart.reached(torch.ones(BATCH_SIZE, dtype=torch.bool))  # warm-up
        start = time.perf_counter()
        leaks = chart.spread()[1]
        by_codes = time.perf_counter() - start
        start = time.perf_counter()
        matrix = chart.matrix(range(BATCH_SIZE))
        one_by_one = time.perf_counter() - start
        assert not leaks.any()  # noqa: S101 - both must agree
        assert not matrix[~torch.eye(BATCH_SIZE, dtype=torch.bool)].any()  # noqa: S101
        ratio = one_by_one / by_codes
        verdict = "ok" if ratio >= AIM else "TOO SLOW"
        print(f"{name:14} codes {by_codes:6.2f} s   one by one {one_by_one:6.2f} s   x{ratio:.1f}  {verdict}")


if __name__ == "__main__":
    main()
