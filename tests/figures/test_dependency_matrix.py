import numpy as np
import pytest

from lightning_recipe.figures.canvas import HEIGHT, WIDTH, pixels, text_width
from lightning_recipe.figures.dependencies import dependency_matrix


@pytest.mark.parametrize("examples", [[3, 5], [0, 1, 2], list(range(100, 116)), [7, 65000]])
def test_all_is_on_the_card_and_whole(examples):
    n = len(examples)
    matrix = np.eye(n) + np.eye(n, k=1) / 100
    picture = dependency_matrix(matrix, examples, "net", "outputs depend on inputs of others, 0.01x as much")
    assert pixels(picture).shape == (HEIGHT, WIDTH, 3)
    for text in picture.texts:
        wide = text_width(text.text)
        left = text.x - {"l": 0, "m": wide / 2, "r": wide}[text.anchor[0]]
        assert 0 <= left <= left + wide <= WIDTH, text
    assert {str(examples[0])} <= set(picture.words)


def test_what_depends_on_others_is_crossed():
    """Each cross is two lines."""
    crossed = [
        line for line in dependency_matrix(np.eye(3) + np.eye(3, k=1), [0, 1, 2], "net").lines if line.colour == "white"
    ]
    assert len(crossed) == 2 * 2
    assert not [line for line in dependency_matrix(np.eye(3), [0, 1, 2], "net").lines if line.colour == "white"]


def test_over_time_only_what_comes_later_is_crossed():
    crossed = [
        line for line in dependency_matrix(np.ones((3, 3)), [0, 1, 2], "net", over_time=True).lines
        if line.colour == "white"
    ]  # fmt: skip
    assert len(crossed) == 2 * 3
