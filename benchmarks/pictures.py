"""How long the pictures of a default call take on one core: at most 150 ms each.

Run ``python benchmarks/pictures.py``; the median processor time of several, after one that
loads the font.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from lightning_recipe.figures.canvas import pixels
from lightning_recipe.figures.inputs import input_card
from lightning_recipe.figures.kinds import recognise
from lightning_recipe.losses.targets import Answers

LIMIT = 150  # ms
REPEATS = 7


def input_picture(tensor: torch.Tensor, answers: Answers) -> None:
    """All that VisualizeInputs does for one input."""
    pixels(input_card("train net.x", tensor, recognise(tensor), answers))


def main() -> None:
    """Print a row for each picture."""
    torch.set_num_threads(1)
    labels = Answers(torch.arange(32) % 10, torch.arange(32) % 9)
    maps = Answers(torch.randint(5, (32, 224, 224)), torch.randint(5, (32, 224, 224)))
    ids = torch.randint(1, 30000, (32, 128))
    cases = [
        ("images 28 x 28", input_picture, torch.rand(32, 1, 28, 28), labels),
        ("images 224 x 224", input_picture, torch.rand(32, 3, 224, 224), labels),
        ("images 4000 x 4000", input_picture, torch.rand(1, 3, 4000, 4000), Answers()),
        ("images with masks", input_picture, torch.rand(32, 3, 224, 224), maps),
        ("many-channel images", input_picture, torch.rand(32, 13, 64, 64), labels),
        ("volumes", input_picture, torch.rand(4, 1, 64, 64, 64), labels),
        ("sequences", input_picture, torch.randn(32, 3, 200).cumsum(2), labels),
        ("sequences, many features", input_picture, torch.randn(32, 200, 40).cumsum(1), labels),
        ("audio", input_picture, torch.randn(32, 16000).mul(0.2).clamp(-1, 1), labels),
        ("tokens, class labels", input_picture, ids, labels),
        ("tokens, token targets", input_picture, ids[:, :-1], Answers(ids[:, 1:], ids[:, 1:])),
        ("rows", input_picture, torch.randn(32, 30), labels),
        ("histogram", input_picture, torch.randn(1000), Answers()),
    ]
    for name, draw, *arguments in cases:
        draw(*arguments)
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            draw(*arguments)
            times.append(1000 * (time.process_time() - start))
        verdict = "" if median(times) <= LIMIT else f"  over {LIMIT} ms"
        print(f"{name:26} {median(times):6.0f} ms{verdict}")


if __name__ == "__main__":
    main()
