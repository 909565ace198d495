"""Pictures of predictions on one fixed batch as training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import findfont, get_font

from lightning_recipe.figures.canvas import COLOURS, FONT_SIZE, card

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[Any]

SMALL = 8
"""Points of tick labels and of text in cells, of which there are many."""
THUMBNAIL = 96
"""Pixels of each side of an example in a mosaic of maps."""
CHARACTERS = 6
"""Of each token, so that seven fit side by side."""
CHANGED, WRONG, RIGHT = "#F0E442", "#F2C4A5", "#FFFFFF"
BACKGROUND = "#D9D9D9"  # class 0 of a map


def probabilities(
    title: str, steps: Sequence[int], truth: Array, flips: Array, rows: Sequence[tuple[str, str]]
) -> Figure:
    """The probability of what is true, for each example over time; dots where the answer changed.

    Args:
        title: One or two lines.
        steps: Of the S snapshots.
        truth: Shape (S, N), 0 to 1.
        flips: Shape (S, N), whether the answer differs from that of the snapshot before.
        rows: For each of the N examples, what is true and what is answered now.

    Example:
        >>> truth, flips = np.array([[0.2, 0.5], [0.9, 0.4]]), np.array([[False, False], [True, False]])
        >>> figure = probabilities("Two examples", [0, 1], truth, flips, [("7", "7"), ("3", "5")])
        >>> figure.axes[0].images[0].get_array().shape
        (2, 2)

    """
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    figure, axes = _axes(title, left=0.1 + 0.019 * left, right=0.91 - 0.018 * right)
    axes.imshow(truth.T, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    when, who = np.nonzero(flips)
    size = float(np.clip(160 / max(truth.shape), 2, 18))
    axes.scatter(when, who, s=size, c="white", edgecolors="black", linewidths=0.6)
    axes.set_yticks(range(len(rows)), [true for true, _ in rows], fontsize=SMALL)
    edge = axes.get_yaxis_transform()
    for i, (true, answer) in enumerate(rows):
        colour = "black" if true == answer else COLOURS[3]
        axes.text(1.02, i, answer, transform=edge, va="center", fontsize=SMALL, color=colour)
    axes.set_ylabel("true", fontsize=FONT_SIZE)
    figure.text(0.99, 0.53, "answer now", rotation=90, va="center", ha="right", fontsize=FONT_SIZE)
    shown = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(5, len(steps)))})
    axes.set_xticks(shown, [f"{steps[i]:,}" for i in shown], fontsize=SMALL)
    axes.set_xlabel("step\ndark 0, bright 1; dots: answer flipped", fontsize=FONT_SIZE)
    return figure


def trajectories(title: str, steps: Sequence[int], values: Array, targets: Array | None) -> Figure:
    """Numbers predicted over time, and where they should end: triangles at the right edge.

    Args:
        title: One or two lines.
        steps: Of the S snapshots.
        values: Shape (S, N), N at most 8.
        targets: Shape (N,).

    Example:
        >>> figure = trajectories("Two numbers", [0, 1, 2], np.zeros((3, 2)), np.ones(2))
        >>> len(figure.axes[0].lines)
        4

    """
    figure, axes = _axes(title, left=0.19, right=0.94)
    x = np.asarray(steps, dtype=float)
    for i in range(values.shape[1]):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(x, values[:, i], color=colour, linewidth=1.5, marker="." if len(steps) < SMALL else None)
        if targets is not None:
            axes.plot(1.02, targets[i], transform=axes.get_yaxis_transform(), marker="<", color=colour, clip_on=False)
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    axes.set_xlim(x[0], max(x[-1], x[0] + 1))
    shown = [step for step in (0, *(10**i for i in range(9))) if x[0] <= step <= x[-1]]
    axes.set_xticks(shown, [f"{step:,}" for step in shown])
    axes.minorticks_off()
    if targets is not None and np.isfinite(values).any() and np.isfinite(targets).all():
        finite = np.concatenate([values[np.isfinite(values)].ravel(), targets])
        margin = 0.05 * float(np.ptp(finite)) or 1.0
        axes.set_ylim(float(finite.min()) - margin, float(finite.max()) + margin)
    axes.tick_params(labelsize=SMALL)
    axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("step (logarithmic)", fontsize=FONT_SIZE)
    axes.set_ylabel("prediction", fontsize=FONT_SIZE)
    return figure


def tokens(title: str, target: Sequence[Sequence[str]], now: Sequence[Sequence[str]], changed: Array) -> Figure:
    """Tokens as they should be and as they are predicted; those that changed since the snapshot before are marked.

    Args:
        title: One or two lines.
        target: For each example, its T tokens.
        now: Likewise, as predicted.
        changed: Shape (N, T).

    Example:
        >>> figure = tokens("One line", [["a", "b"]], [["a", "c"]], np.array([[False, True]]))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['a', 'a', 'b', 'c']

    """
    figure, axes = _axes(title, left=0.02, right=0.98)
    rows = 3 * len(target) - 1  # target, prediction, a gap
    width = max(len(line) for line in target)
    cells = np.ones((rows, width, 3))
    for n, (truth, said) in enumerate(zip(target, now, strict=True)):
        for t, (true, word) in enumerate(zip(truth, said, strict=True)):
            axes.text(t, 3 * n, _short(true), ha="center", va="center", fontsize=SMALL, color="#666666")
            axes.text(t, 3 * n + 1, _short(word), ha="center", va="center", fontsize=SMALL)
            colour = CHANGED if changed[n, t] else RIGHT if true == word else WRONG
            cells[3 * n + 1, t] = mpl.colors.to_rgb(colour)
    axes.imshow(cells, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("grey: target; yellow: just changed\norange: wrong, unchanged", fontsize=FONT_SIZE)
    return figure


def _axes(title: str, *, left: float, right: float, bottom: float = 0.18, top: float = 0.87) -> tuple[Figure, Axes]:
    """A card with one axes at a place given by shares of the card; working the place out would cost 50 ms."""
    figure = card(title)
    figure.set_layout_engine("none")
    return figure, figure.add_axes((left, bottom, right - left, top - bottom))


def _short(word: str) -> str:
    """The beginning of `word`; characters that the font lacks are written as in Python's source, a mere space as ␣."""
    font = get_font(findfont("DejaVu Sans"))
    visible = "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in word)
    visible = visible if visible.strip() else visible.replace(" ", "␣")
    visible = visible if len(visible) <= CHARACTERS else visible[: CHARACTERS - 1] + "…"
    return visible.replace("$", r"\$")  # not mathematics


def maps(title: str, columns: dict[str, Array], classes: int = 0) -> Figure:
    """Images side by side: a row for each example, a column for each of input, target, prediction.

    Args:
        title: One or two lines.
        columns: Under its heading, shape (N, H, W, 3), 0 to 1.
        classes: How many classes to explain below, at most 8; none with 0.

    Example:
        >>> figure = maps("One image", {"input": np.zeros((1, 8, 8, 3)), "target": np.ones((1, 8, 8, 3))})
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['input', 'target']

    """
    figure, axes = _axes(title, left=0.02, right=0.98, bottom=0.1 if classes else 0.02, top=0.81)
    rows = min(len(images) for images in columns.values())
    mosaic = np.ones((rows * (THUMBNAIL + 4) - 4, len(columns) * (THUMBNAIL + 4) - 4, 3))
    for j, images in enumerate(columns.values()):
        for i in range(rows):
            top, left = i * (THUMBNAIL + 4), j * (THUMBNAIL + 4)
            mosaic[top : top + THUMBNAIL, left : left + THUMBNAIL] = _thumbnail(images[i])
    axes.imshow(mosaic.clip(0, 1), interpolation="nearest")
    centres = [j * (THUMBNAIL + 4) + THUMBNAIL / 2 for j in range(len(columns))]
    axes.set_xticks(centres, list(columns), fontsize=FONT_SIZE if len(columns) <= 3 else SMALL)  # noqa: PLR2004
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if classes:
        palette = _palette(classes)
        handles = [mpl.patches.Patch(color=tuple(palette[c]), label=str(c)) for c in range(min(classes, 8))]
        spacing = {"handlelength": 0.8, "handletextpad": 0.4, "columnspacing": 1.0, "borderpad": 0.3}
        figure.legend(handles=handles, loc="lower center", ncols=8, fontsize=SMALL, **spacing)
    return figure


def _thumbnail(image: Array) -> Array:
    """Enlarged or reduced by repeating or leaving out pixels; not square ones are not distorted."""
    side = max(image.shape[:2])
    index = np.arange(THUMBNAIL) * side // THUMBNAIL
    square = np.ones((side, side, 3))
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    resized: Array = square[index][:, index]
    return resized


# -- values to colours


def class_colours(classes: Array, count: int) -> Array:
    """Shape (..., 3), 0 to 1; class 0 is grey, negative ones (without a target) are white.

    Example:
        >>> class_colours(np.array([[0, -1]]), 2).round(2).tolist()
        [[[0.85, 0.85, 0.85], [1.0, 1.0, 1.0]]]

    """
    palette = np.concatenate([_palette(count), np.ones((1, 3))])
    coloured: Array = palette[np.where(classes < 0, count, np.minimum(classes, count - 1))]
    return coloured


def _palette(count: int) -> Array:
    """Colours told apart up to eight classes; those beyond lie on a scale."""
    first = [mpl.colors.to_rgb(colour) for colour in (BACKGROUND, *COLOURS[:7])]
    beyond = mpl.colormaps["cividis"](np.linspace(0, 1, max(0, count - len(first))))[:, :3]
    palette: Array = np.concatenate([np.array(first), beyond])[:count]
    return palette


def number_colours(values: Array, low: float, high: float) -> Array:
    """Shape (N, H, W, C) to (N, H, W, 3): three channels as they are, else the first one on a scale.

    Args:
        values: Numbers, not finite ones become white.
        low: What is darkest; the same for all examples.
        high: What is brightest.

    Example:
        >>> number_colours(np.array([[[[0.0, 1.0, 2.0]]]]), 0, 2).tolist()
        [[[[0.0, 0.5, 1.0]]]]

    """
    scaled = (values - low) / ((high - low) or 1.0)
    if values.shape[-1] == 3:  # noqa: PLR2004
        return np.nan_to_num(scaled, nan=1.0).clip(0, 1)
    scaled = scaled[..., 0]
    coloured: Array = mpl.colormaps["cividis"](np.nan_to_num(scaled).clip(0, 1))[..., :3]
    coloured[~np.isfinite(scaled)] = 1.0
    return coloured
