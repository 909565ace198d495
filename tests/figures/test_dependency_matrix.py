import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lightning_recipe.figures.dependencies import dependency_matrix


@pytest.mark.parametrize("examples", [range(16), [*range(15), 19], range(120, 136), [3, 250], range(9)], ids=str)
def test_labels_are_told_apart(examples):
    title = "MixingNet: outputs depend on inputs of others, 2.2 times as much as on their own; 16 of 64 examples"
    figure = dependency_matrix(np.ones((len(examples), len(examples))), examples, title)
    FigureCanvasAgg(figure).draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert [label.get_text() for label in axis.get_ticklabels()] == [str(i) for i in examples]
        assert not any(a.padded(2).overlaps(b) for a, b in itertools.pairwise(boxes))
