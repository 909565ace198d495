"""Point clouds and graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_recipe.figures.axes import ends
from lightning_recipe.figures.canvas import COLOURS, FAINT, GREY, heat
from lightning_recipe.figures.captions import captions
from lightning_recipe.figures.picture import BODY, Box
from lightning_recipe.figures.sequences import panels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_recipe.figures.kinds import Reading
    from lightning_recipe.figures.picture import Picture
    from lightning_recipe.losses.targets import Answers

MOST_POINTS = 2048
"""Points of a cloud that are drawn."""
MOST_NODES = 40
"""Nodes of a graph that are drawn: the first, and what connects them."""
DOT = 3
"""Pixels of a side of a point."""


def clouds(picture: Picture, tensor: Tensor, reading: Reading, answers: Answers, span: tuple[float, float]) -> None:
    """Point clouds seen from above one corner, near ones bright; lines along the axes meet where all are zero.

    Args:
        picture: To draw on.
        tensor: Points of shape (example, point, coordinate) or (example, coordinate, point), the first three drawn.
        reading: How to read it.
        answers: What belongs to the examples.
        span: The values at the ends of the axes.

    Example:
        >>> import torch
        >>> from lightning_recipe.figures.kinds import Kind, Reading
        >>> from lightning_recipe.figures.picture import Picture
        >>> from lightning_recipe.losses.targets import Answers
        >>> picture = Picture("train points")
        >>> clouds(picture, torch.randn(2, 100, 3), Reading(Kind.POINTS, "NTF"), Answers(torch.arange(2)), (-3.0, 3.0))
        >>> picture.words[:2], picture.note
        (['0', '1'], 'axes to 3')

    """
    points = tensor if reading.axes == "NTF" else tensor.movedim(1, 2)
    values = points[:, :MOST_POINTS, :3].detach().cpu().double().numpy()
    reach = max(abs(span[0]), abs(span[1])) or 1.0
    boxes = panels(picture, captions(answers, len(values)))
    for box, cloud in zip(boxes, values, strict=True):
        for axis in np.eye(3):
            picture.draw(_seen(np.stack([-axis, axis]), box)[0], FAINT, 2)
        at, depth = _seen(cloud / reach, box)
        order = np.argsort(depth)
        order = order[np.isfinite(at[order]).all(-1)]
        within = (at[order] >= box[:2]).all(-1) & (at[order] < np.subtract(box[2:], DOT)).all(-1)
        (x, y), shades = at[order][within].astype(int).T, heat(depth[order][within], (-1.5, 1.5))
        for place in range(DOT**2):  # the nearest last
            picture.raster[y + place // DOT, x + place % DOT] = shades
    picture.note = f"axes to {ends(0, reach)[1]}"


def _seen(points: NDArray[np.float64], box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where points (n, 3) of at most 1 lie on the card, and how near they are."""
    x, y, z = points.T
    across, up = 0.7 * (x - y), 0.8 * z - 0.35 * (x + y)
    scale = min(box.width / 2.9, box.height / 2.3)
    middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return np.stack([middle[0] + scale * across, middle[1] - scale * up], axis=-1), x + y


def graph(picture: Picture, edges: Tensor, nodes: int, answers: Answers) -> None:
    """The first nodes of a graph and the edges between them; nodes in the colours of their classes.

    Args:
        picture: To draw on.
        edges: Numbers of nodes, shape (2, E).
        nodes: How many there are.
        answers: What belongs to the nodes.

    Example:
        >>> import torch
        >>> from lightning_recipe.figures.picture import Picture
        >>> from lightning_recipe.losses.targets import Answers
        >>> picture = Picture("train edge_index")
        >>> graph(picture, torch.tensor([[0, 1], [1, 2]]), 3, Answers())
        >>> picture.words, picture.note
        (['0', '1', '2'], '3 nodes, 2 edges')

    """
    import networkx as nx  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a third of a second, and only graphs need it

    shown = min(nodes, MOST_NODES)
    pairs = [(int(a), int(b)) for a, b in edges.T.tolist() if a < shown and b < shown][: 10 * MOST_NODES]
    drawn = nx.Graph(pairs)
    drawn.add_nodes_from(range(shown))
    places = np.array([where for _, where in sorted(nx.spring_layout(drawn, seed=0, iterations=30).items())])
    low, high = places.min(0), places.max(0)
    at = np.array([BODY.left + 16, BODY.top + 16]) + (places - low) / np.where(high > low, high - low, 1) * (
        np.array([BODY.width - 32, BODY.height - 32])
    )
    target = answers.target
    known = target is not None and target.ndim == 1 and len(target) == nodes and not target.is_floating_point()
    classes = target[:shown].tolist() if target is not None and known else [0] * shown
    for a, b in pairs:
        if a == b:
            picture.frame(Box(at[a, 0], at[a, 1] - 26, at[a, 0] + 20, at[a, 1] - 6), GREY, 2)
        else:
            picture.draw(at[[a, b]], GREY, 2)
    for i, (x, y) in enumerate(at):
        picture.draw([(x - 11, y), (x + 11, y)], COLOURS[classes[i] % 7] if classes[i] >= 0 else GREY, 22)
        picture.write(float(x), float(y) + 7, str(classes[i]) if known else str(i), "white", anchor="ms")
    picture.note = f"{nodes} nodes, {edges.shape[1]} edges" + (f", first {shown} drawn" if shown < nodes else "")
