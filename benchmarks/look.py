"""What a look at one training step costs, for each need: the probed step over the bare step, in one run.

Run ``python benchmarks/look.py``, on one thread. The aim is one extra forward at most, x2.00, for wiring of the MLP,
whose layers are so small that most of a forward is overhead too.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_recipe.record.probe import Probe
from lightning_recipe.record.step import Need

LOOKS = 200
NEEDS = {
    "wiring": Need.WIRING,
    "wiring, graph": Need.WIRING | Need.GRAPH,
    "inputs, losses": Need.INPUTS | Need.LOSSES,
    "losses": Need.LOSSES,
    "outputs": Need.OUTPUTS,
    "wiring, outputs": Need.WIRING | Need.OUTPUTS,
    "everything": ~Need(0),
}


class Module(LightningModule):
    """A network and a squared error."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """The loss."""
        x, y = batch
        return F.mse_loss(self.net(x), y)


def programs() -> dict[str, tuple[Module, Any]]:
    """Modules and a batch for each."""
    layers = [layer for _ in range(61) for layer in (nn.Linear(64, 64), nn.ReLU())]
    rows, tokens = torch.randn(32, 64), torch.randn(8, 32, 64)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 4)
    return {
        "mlp": (Module(nn.Sequential(*layers)), (rows, rows)),
        "transformer": (Module(encoder), (tokens, tokens)),
    }


def seconds(module: Module, batch: Any, needs: Need | None) -> float:
    """Processor time of one forward, watched or not, which other programs on the machine disturb least."""
    probe = None if needs is None else Probe.attach(module, "training_step", needs)
    start = time.process_time()
    module.training_step(batch, 0)
    if probe is not None:
        probe.result()
    return time.process_time() - start


def main() -> None:
    """Print a row for each module and need; times alternate, so that what else runs meets both."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (module, batch) in programs().items():
        for label, needs in NEEDS.items():
            pairs = [(seconds(module, batch, None), seconds(module, batch, needs)) for _ in range(LOOKS)]
            bare, probed = (statistics.median(column) for column in zip(*pairs[10:], strict=True))
            print(
                f"{name:12} {label:16} bare {1e3 * bare:6.2f} ms   probed {1e3 * probed:6.2f} ms   x{probed / bare:.2f}"
            )


if __name__ == "__main__":
    main()
