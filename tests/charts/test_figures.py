import io

import numpy as np
import pytest

from raydd.charts import figures


def drawn(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue().startswith(b"\x89PNG")


def test_pairs_show_start_synthetic_and_caption():
    pixels = np.zeros((3, 3, 8, 8), np.uint8)
    figure = figures.synthetic_pairs(pixels, pixels + 9, ["a red cat", "a dog", "a very long caption " * 20])
    assert len(figure.axes) == 6
    assert figure.axes[3].get_xlabel() == "a red cat"
    assert drawn(figure)


def test_a_row_of_images_is_low_and_shows_the_first_ten():
    figure = figures.row_of_images(np.zeros((12, 3, 8, 8), np.uint8))
    assert len(figure.axes) == 10
    assert figure.get_size_inches()[1] * figure.dpi < 90  # of the 100 pixels that MLflow shows of a description
    assert drawn(figure)


def test_the_off_diagonal_is_shown_on_its_own_scale():
    figure = figures.similarity_matrix(np.eye(4) + 0.01)
    assert figure.axes[2].get_images()[0].get_clim() == pytest.approx((-0.01, 0.01))
    assert drawn(figure)


def test_curves_skip_the_points_that_lack_a_metric():
    points = [{"step": 1, "collapse/gap": 0.1}, {"step": 2, "val/r_mean": 3.0}, {"step": 3, "collapse/gap": 0.2}]
    figure = figures.curves(points, "collapse/")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 3]
    assert drawn(figure)


@pytest.mark.parametrize(
    "figure",
    [
        figures.curves([], "val/"),
        figures.search_history({0: 30.0, 2: 40.0}, {1: 10.0}),
        figures.search_history({}, {}),
        figures.importance({"distill.image_lr": 0.7, "experts.lr": 0.3}),
        figures.front([(30.0, 5.0), (20.0, 9.0)], [(30.0, 5.0)], ("r_mean", "seconds")),
    ],
)
def test_every_figure_can_be_drawn(figure):
    assert drawn(figure)
