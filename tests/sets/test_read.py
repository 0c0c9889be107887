import io
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_sets import N, broken, folder_of, made, pairs, saved

from raydd.distill.synthetic import SyntheticSet
from raydd.errors import RecordError
from raydd.evaluate.retrieval import METRICS
from raydd.sets.read import load_synthetic, open_set, set_of_record, stored_scores
from raydd.store import Record, Store

SCORES = [dict.fromkeys(METRICS, 50.0), dict.fromkeys(METRICS, 52.0)]


@pytest.mark.parametrize("kind", ["low-rank", "full", "identity"])
@pytest.mark.parametrize("pixels", [True, False])
def test_what_was_written_is_read_back(tmp_path: Path, kind: str, pixels: bool):
    synthetic = made(kind, pixels=pixels)
    record = saved(tmp_path, synthetic)
    opened = open_set(folder_of(record))
    for name, tensor in synthetic.tensors().items():
        assert torch.equal(opened.synthetic.tensors()[name], tensor), name
    assert opened.provenance.stored_bytes == synthetic.stored_bytes
    assert opened.fingerprint == record.fingerprint
    assert [row["pair"] for row in opened.rows] == list(range(N))
    assert opened.title == "4 pairs from tiny"


def test_a_folder_of_another_name_knows_its_record(tmp_path: Path):
    record = saved(tmp_path / "store")
    copy = tmp_path / "mine" / "copy"
    shutil.copytree(folder_of(record), copy)
    assert open_set(copy).fingerprint == record.fingerprint


def test_what_is_no_set_is_said(tmp_path: Path):
    with pytest.raises(RecordError, match="is not a synthetic set: it has no manifest"):
        open_set(tmp_path)
    record = Record.of(saved(tmp_path).store, "experts", {}, {}, version=1)
    record.finish()
    with pytest.raises(RecordError, match="of the stage 'experts', not a synthetic set"):
        set_of_record(record)
    with pytest.raises(RecordError, match="is not complete"):
        load_synthetic(replace(record, fingerprint="ffff"))


@pytest.mark.parametrize("value", [{}, [], None, 3, {"facts": {}}, {"facts": []}])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, value: Any):
    record = saved(tmp_path)
    record.write_json("manifest.json", value)
    with pytest.raises(RecordError, match=r"manifest\.json"):
        open_set(folder_of(record))
    with pytest.raises(RecordError):
        load_synthetic(record)


def test_a_deeply_nested_manifest_is_refused(tmp_path: Path):
    record = saved(tmp_path)
    (folder_of(record) / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(RecordError, match=r"manifest\.json"):
        open_set(folder_of(record))


def test_facts_that_the_tensors_deny_are_refused(tmp_path: Path):
    record = saved(tmp_path)
    facts = record.facts()
    for name, value in (("pairs", 5), ("stored_bytes", 1)):
        with pytest.raises(RecordError, match=f"says that {name} is {value}, but"):
            set_of_record(broken(record, {**facts, name: value}))


@pytest.mark.parametrize("name", ["manifest.json", "synthetic.safetensors", "pairs.parquet"])
def test_a_missing_file_or_a_directory_or_rubbish_in_its_place_is_refused(tmp_path: Path, name: str):
    for number, put in enumerate((Path.mkdir, lambda path: None, lambda path: path.write_bytes(b"rubbish"))):
        record = saved(tmp_path / str(number))
        path = folder_of(record) / name
        path.unlink()
        put(path)
        with pytest.raises(RecordError, match=name.replace(".", r"\.")):
            open_set(folder_of(record))
        with pytest.raises(RecordError):
            set_of_record(record)


def assert_same(one: SyntheticSet, other: SyntheticSet) -> None:
    for name in ("image_features", "text_features", "start_images", "start_captions"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.rate_image, one.rate_text, one.loss) == (other.rate_image, other.rate_text, other.loss)


def test_every_cut_and_flipped_file_is_refused_or_whole(tmp_path: Path):
    random.seed(0)
    record = saved(tmp_path)
    whole = set_of_record(record).synthetic
    for name in ("manifest.json", "synthetic.safetensors", "pairs.parquet"):
        path = folder_of(record) / name
        content = path.read_bytes()
        for _ in range(30):
            place = random.randrange(len(content))
            flipped = bytearray(content)
            flipped[place] ^= 1 << random.randrange(8)
            for wrong in (bytes(flipped), content[:place]):
                path.write_bytes(wrong)
                with suppress(RecordError):
                    assert_same(set_of_record(record).synthetic, whole)
        path.write_bytes(content)


def rows_of(record: Record) -> pa.Table:
    return pq.read_table(io.BytesIO(record.read("pairs.parquet")))


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.slice(1), "has 3 rows, but there are 4 pairs"),
        (lambda rows: pa.concat_tables([rows, rows]), "has 8 rows, but there are 4 pairs"),
        (lambda rows: rows.drop_columns(["start_caption"]), "has no column start_caption"),
        (lambda rows: rows.append_column("cosines", rows["cosines"]), "has no column cosines, or more than one"),
        (lambda rows: put(rows, "start_image", [1, 2, 3, 4]), "start_image is int64, but must be string"),
        (lambda rows: put(rows, "nearest_captions", ["a"] * 4), "nearest_captions is string, but must be list"),
        (lambda rows: put(rows, "pair", [3, 2, 1, 0]), "row 0 has the pair number 3"),
        (lambda rows: put(rows, "image", ["../../secret"] * 4), "names the image '../../secret'"),
        (lambda rows: put(rows, "image", pa.nulls(4)), "names the image None"),
        (lambda rows: put(rows, "start_image", pa.array([None] * 4, pa.string())), "does not say what it started from"),
        (lambda rows: put(rows, "nearest_captions", pa.array([[]] * 4, pa.list_(pa.string()))), "lacks nearest"),
        (lambda rows: put(rows, "cosines", [[0.5]] * 4), "lacks nearest captions or their cosines"),
        (lambda rows: put(rows, "cosines", [[float("nan")] * 5] * 4), "has a cosine outside"),
    ],
)
def test_rows_that_do_not_belong_to_the_pairs_are_refused(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], said: str
):
    record = saved(tmp_path)
    buffer = io.BytesIO()
    pq.write_table(change(rows_of(record)), buffer)
    facts = record.facts()
    record.write("pairs.parquet", buffer.getvalue())
    record.finish(facts=facts)  # a stranger's set is sealed as well as one's own
    with pytest.raises(RecordError, match=rf"pairs\.parquet.*{said}"):
        set_of_record(record)


NAMES = [*made().tensors()]


@pytest.mark.parametrize("kind", ["low-rank", "full"])
def test_every_tensor_but_those_that_are_derived_is_required(kind: str):
    whole = made(kind)
    for name in set(whole.tensors()) - {"similarity_matrix", "pixels"}:
        lacking = {key: part for key, part in whole.tensors().items() if key != name}
        with pytest.raises(RecordError, match=f"has no tensor {name}"):
            SyntheticSet.of_tensors(lacking, whole.facts())


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("text_features", torch.zeros(N + 1, 3), r"\[5 3\], but must be float32 \[4 e\]"),
        ("text_features", torch.zeros(N, 0), r"\[4 0\]"),
        ("image_features", torch.zeros(N), r"float32 \[N d\]"),
        ("image_features", torch.full((N, 5), torch.nan), "NaN"),
        ("image_features", torch.zeros(N, 5, dtype=torch.int64), "int64"),
        ("rates", torch.tensor([0.1]), r"\[2\]"),
        ("rates", torch.tensor([0.1, -0.1]), "above zero"),
        ("rates", torch.tensor([0.1, torch.inf]), "infinite"),
        ("start_images", torch.zeros(N), "int64"),
        ("start_images", torch.tensor([0, 1, 2, -1]), "index from 0"),
        ("start_captions", torch.arange(N + 1), r"\[4\]"),
        ("similarity.left", torch.zeros(N, 3), "similarity.right"),
        ("similarity.diagonal", torch.ones(N, N), "similarity.diagonal"),
        ("similarity.entries", torch.eye(N), "low-rank and has entries"),
        ("pixels", torch.zeros(N, 3, 6, 6), "must be uint8"),
        ("pixels", torch.zeros(N, 1, 6, 6, dtype=torch.uint8), r"uint8 \[4 3 H W\]"),
        ("pixels", torch.zeros(N, 3, 0, 6, dtype=torch.uint8), r"uint8 \[4 3 H W\]"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(name: str, tensor: torch.Tensor, said: str):
    whole = made()
    with pytest.raises(RecordError, match=said):
        SyntheticSet.of_tensors({**whole.tensors(), name: tensor}, whole.facts())


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"similarity": "sparse"}, "Known: full, identity, low-rank"),
        ({"similarity": None}, "similarity is None"),
        ({"loss": "sharp"}, "Known: bce, infonce, wbce"),
        ({"loss": []}, "loss is"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": "3"}, "alpha is '3'"),
        ({"similarity": "identity"}, "identity and has diagonal, left, right"),
        ({"similarity": "full"}, "full and has"),
    ],
)
def test_facts_that_no_set_has_are_refused(facts: dict[str, Any], said: str):
    whole = made()
    with pytest.raises(RecordError, match=said):
        SyntheticSet.of_tensors(whole.tensors(), {**whole.facts(), **facts})
    with pytest.raises(RecordError, match="the facts of the set"):
        SyntheticSet.of_tensors(whole.tensors(), None)  # type: ignore[arg-type]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([*NAMES, "similarity.entries", "colour"]),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.uint8, torch.int64, torch.bool, torch.float64]),
    st.sampled_from([0.0, 1.0, -1.0, float("nan")]),
    st.dictionaries(
        st.sampled_from(["similarity", "alpha", "loss"]),
        st.sampled_from(["full", "identity", "low-rank", "bce", 1.0, None, [], {}]),
        max_size=2,
    ),
)
def test_any_tensor_in_a_place_gives_a_record_error_or_a_set_that_trains(name, shape, kind, value, facts):
    whole = made()
    whole_number = 0.0 if value != value and not kind.is_floating_point else value
    tensor = torch.full(shape, whole_number, dtype=torch.float64).to(kind)
    try:
        found = SyntheticSet.of_tensors({**whole.tensors(), name: tensor}, {**whole.facts(), **facts})
    except RecordError:
        return
    assert found.similarity.matrix().shape == (N, N)
    assert found.stored_bytes > 0
    assert len(found.image_features) == len(found.start_images) == N


def test_a_start_beyond_the_data_is_refused(tmp_path: Path):
    far = replace(made(), start_images=torch.tensor([0, 1, 2, 3]))
    opened = set_of_record(saved(tmp_path, far))
    opened._require_pairs(pairs())
    outside = replace(opened, synthetic=replace(far, start_captions=torch.tensor([0, 1, 2, 7])))
    with pytest.raises(RecordError, match="start_captions names number 7, but there are 7"):
        outside._require_pairs(pairs())


def scored(record: Record, scores: Any, **settings: Any) -> Record:
    made_with = {"split": "test", "row": "synthetic", **settings}
    kept = Record.of(record.store, "scores", made_with, {"synthetic": record.fingerprint}, version=1)
    kept.write_json("scores.json", scores)
    kept.finish()
    return kept


def test_the_scores_of_the_most_seeds_are_found_and_those_chosen_on_their_split_are_not(tmp_path: Path):
    record = saved(tmp_path)
    opened = set_of_record(record)
    assert stored_scores(opened) == {}
    scored(record, SCORES[:1], seeds=1)
    scored(record, SCORES, seeds=2)
    scored(record, [dict.fromkeys(METRICS, 99.0)] * 5, seeds=5, choice="best-on-split")
    assert stored_scores(opened)["test"]["r_mean"]["seeds"] == [50.0, 52.0]


def test_scores_of_another_store_and_of_one_recipe_are_found(tmp_path: Path):
    record = saved(tmp_path / "store")
    opened, other = set_of_record(record), Store(tmp_path / "other")
    kept = replace(record, store=other)
    scored(kept, SCORES[:1], students={"epochs": 3})
    scored(kept, SCORES, students={"epochs": 9})
    assert stored_scores(opened) == {}
    assert stored_scores(opened, other)["test"]["r_mean"]["seeds"] == [50.0, 52.0]
    assert stored_scores(opened, other, made_with={"students": {"epochs": 3}})["test"]["r_mean"]["seeds"] == [50.0]


@pytest.mark.parametrize("scores", [[], {}, [{}], [{"r_mean": "50"}], [{**SCORES[0], "r_mean": 101.0}], 3])
def test_scores_that_are_none_are_refused(tmp_path: Path, scores: Any):
    record = saved(tmp_path)
    scored(record, scores)
    with pytest.raises(RecordError, match=r"scores\.json"):
        stored_scores(set_of_record(record))
