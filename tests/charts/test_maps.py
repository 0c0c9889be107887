import base64
import json

import numpy as np
import pytest
import torch

from raydd.charts.maps import cluster_order, modality_maps, pca, similarity_map, umap


def test_the_plane_is_that_of_the_largest_variance():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 8, generator=generator) * torch.tensor([9.0, 4.0, 1, 1, 1, 1, 1, 1])
    points = pca(rows)
    _, vectors = torch.linalg.eigh(torch.cov(rows.T.double()))
    centred = (rows - rows.mean(0)).double()
    for axis in (0, 1):
        wanted = (centred @ vectors[:, -1 - axis]).numpy()
        assert np.allclose(np.abs(points[:, axis]), np.abs(wanted), atol=1e-4)


def test_alike_pairs_stand_side_by_side():
    group = np.array([0, 1, 0, 1, 0, 1])
    beside = np.where(group[:, None] == group[None], 1.0, -1.0)
    np.fill_diagonal(beside, 0)
    ordered = group[cluster_order(beside)]
    assert (ordered[:3] == ordered[0]).all()
    assert (ordered[3:] == 1 - ordered[0]).all()


def test_the_heat_map_leaves_the_diagonal_out_and_names_the_pairs():
    matrix = torch.eye(4)
    matrix[0, 3] = 0.5
    drawn = similarity_map(matrix)
    assert drawn
    (heat,) = json.loads(drawn.figure)["data"]
    values = np.frombuffer(base64.b64decode(heat["z"]["bdata"]), dtype="f4").reshape(4, 4)
    place = {name: number for number, name in enumerate(heat["x"])}
    assert values[place["0"], place["3"]] == 0.5
    assert np.isnan(np.diagonal(values)).all()


def test_the_words_speak_of_the_values_off_the_diagonal_alone():
    matrix = torch.full((4, 4), 0.5)
    matrix.fill_diagonal_(2.0)
    drawn = similarity_map(matrix)
    assert drawn
    assert "between 0.50 and 0.50; their mean absolute value is 0.500" in drawn.summary
    assert "between 2.00 and 2.00" in drawn.summary


def test_the_identity_has_no_heat_map():
    assert similarity_map(torch.eye(5)) is None


def test_start_and_end_are_drawn_on_the_same_axes():
    rows = [torch.nn.functional.normalize(torch.randn(7, 5), dim=1) for _ in range(4)]
    start, end = modality_maps((rows[0], rows[1]), (rows[2], rows[3]), "pca")
    layouts = [json.loads(drawn.figure)["layout"] for drawn in (start, end)]
    assert layouts[0]["xaxis"]["range"] == layouts[1]["xaxis"]["range"]
    assert layouts[0]["yaxis"]["range"] == layouts[1]["yaxis"]["range"]
    assert "7 images and 7 texts" in start.summary


@pytest.mark.slow
@pytest.mark.filterwarnings("error:n_jobs")
def test_umap_s_plane_keeps_neighbours_and_is_the_same_again():
    pytest.importorskip("umap")
    generator = torch.Generator().manual_seed(0)
    kinds = torch.nn.functional.normalize(torch.randn(3, 16, generator=generator), dim=1)
    rows = kinds.repeat_interleave(20, 0) + 0.1 * torch.randn(60, 16, generator=generator)
    points = umap(rows)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(1) // 20 == np.arange(60) // 20).all()
    assert np.array_equal(umap(rows), points)
    halves = torch.nn.functional.normalize(rows, dim=1).split(15)
    start, _ = modality_maps((halves[0], halves[1]), (halves[2], halves[3]), "umap")
    assert "UMAP 1" in start.figure
    assert "The table below measures the gap" in start.summary
