from dataclasses import fields, replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.config import Config, DataConfig, DistillConfig
from raydd.distill.methods import METHODS
from raydd.errors import ConfigError
from raydd.presets import PRESETS
from raydd.settings import flatten, load, to_yaml, with_file, with_settings

settings = st.fixed_dictionaries(
    {},
    optional={
        "data.root": st.text(st.characters(codec="utf-8", exclude_characters="\0$~"), max_size=20),
        "data.val_share": st.floats(0.01, 0.5),
        "experts.lr": st.floats(1e-6, 10),
        "distill.pairs": st.integers(20, 5000),
        "distill.merged": st.booleans(),
        "distill.blend": st.sampled_from(["none", "beta", "fixed", "noise"]),
        "evaluate.baselines": st.sampled_from([(), ("random",), ("full", "random")]),
    },
)


@given(settings)
@hypothesis.example(settings={"data.root": "\x85"})
@hypothesis.example(settings={"data.root": "Bär\u2028"})
def test_yaml_brings_back_the_same_config(tmp_path_factory: pytest.TempPathFactory, settings: dict):
    config = load(settings=settings)
    file = tmp_path_factory.mktemp("yaml") / "settings.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load(file) == config


@given(settings)
def test_dotted_names_bring_back_the_same_config(settings: dict):
    config = load(settings=settings)
    assert with_settings(Config(), flatten(config)) == config
    assert all(flatten(config)[name] == value for name, value in settings.items())


def test_later_ones_win(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("distill: {pairs: 50, rank: 4}\n")
    config = load(file, "repblend-coco-500", {"distill.rank": 5})
    assert config.distill.rank == 5
    assert config.distill.pairs == 50
    assert config.distill.image_lr == PRESETS["repblend-coco-500"].settings["distill.image_lr"]


def test_a_file_that_names_a_reader_inherits_nothing_of_another_data_set(tmp_path: Path):
    data = {"reader": "csv", "root": "/a", "name": "mine", "images": "/a/img", "image_column": "file"}
    config = load(settings={f"data.{name}": value for name, value in data.items()} | {"data.caption_words": 30})
    file = tmp_path / "other.yaml"
    file.write_text("data: {reader: txt, root: /b}\n")
    assert with_file(config, file).data == DataConfig(reader="txt", root="/b", caption_words=30)
    file.write_text("data: {root: /b}\n")
    assert with_file(config, file).data == replace(config.data, root="/b")


def test_a_method_gives_defaults_that_a_user_overrides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(METHODS, "plain", replace(METHODS["repblend"], settings={"distill.blend": "none"}))
    assert load(settings={"distill.method": "plain"}).distill.blend == "none"
    assert load(settings={"distill.method": "plain", "distill.blend": "fixed"}).distill.blend == "fixed"


def test_a_method_of_one_s_own_comes_from_a_file_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "from raydd.distill.methods import Method\nMINE = Method(paper='', settings={'distill.blend': 'noise'})\n"
    (tmp_path / "own_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in (f"{tmp_path}/own_method.py:MINE", "own_method:MINE"):
        config = load(settings={"distill.method": name})
        assert (config.distill.method, config.distill.blend) == (name, "noise")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("repblent", "Did you mean 'repblend'"),
        ("nowhere.py:METHOD", "there is no file"),
        ("nowhere:METHOD", "nowhere cannot be imported"),
        ("raydd.presets:PRESET", "Did you mean 'Preset'|Did you mean 'PRESETS'"),
        ("raydd.presets:PRESETS", r"is a dict, but must be a raydd\.distill\.methods\.Method"),
    ],
)
def test_a_method_that_is_none_is_refused(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load(settings={"distill.method": name})


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_settings_and_published_numbers_can_be_set(name: str):
    config = load(settings={"distill.method": name, "distill.pairs": 100, **METHODS[name].published})
    flat = flatten(config)
    assert all(flat[key] == value for key, value in {**METHODS[name].settings, **METHODS[name].published}.items())


def test_a_changed_method_has_other_settings_on_top_and_nothing_published():
    repblend = METHODS["repblend"]
    changed = repblend.changed({"distill.loss": "infonce", "distill.steps": 7})
    assert changed.settings == {**repblend.settings, "distill.loss": "infonce", "distill.steps": 7}
    assert (changed.paper, changed.published, changed.space) == (repblend.paper, {}, "")


def test_the_protocol_that_trains_the_encoder_learns_pixels_unless_the_user_says_otherwise():
    assert load(settings={"distill.protocol": "encoder"}).distill.images == "pixels"
    assert load(settings={"distill.protocol": "heads"}).distill.images == Config().distill.images
    with pytest.raises(ConfigError, match=r"distill\.images"):
        load(settings={"distill.protocol": "encoder", "distill.images": "features"})


def test_an_ablation_changes_one_switch_of_repblend():
    repblend = load(settings={"distill.method": "repblend"})
    for name in ("no-blending", "noise", "image-blend", "text-blend", "text-head", "identity", "full"):
        ablated = load(preset=f"repblend-{name}")
        before, after = flatten(repblend), flatten(ablated)
        assert len({key for key in before if before[key] != after[key]} - {"distill.minibatch"}) == 1
        assert ablated.distill.minibatch_size == repblend.distill.minibatch_size == 50


def test_the_defaults_are_those_of_the_default_method():
    assert load() == Config() == load(settings={"distill.method": "plain"})
    before = load(preset="earlier").distill
    assert (before.method, before.blend, before.similarity, before.loss) == ("repblend", "beta", "low-rank", "infonce")


def test_an_empty_file_is_the_defaults(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("# nothing\n")
    assert load(file) == load()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_config(name: str):
    config = load(preset=name)
    assert flatten(config).items() >= dict(PRESETS[name].settings).items()
    if "flickr30k" in name or "coco" in name:  # a published budget, of which a learned similarity takes one pair
        similar = config.distill.objective == "trajectory" and config.distill.similarity != "identity"
        assert f"-{config.distill.pairs + similar}" in name


def test_a_number_may_be_written_as_yaml_reads_it():
    # YAML 1.1 takes 1e-3, which has no dot, for text
    assert load(settings={"distill.image_lr": "1e-3"}).distill.image_lr == 0.001
    assert load(settings={"distill.image_lr": 1}).distill == DistillConfig(image_lr=1.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distill.pair": 9}, "Did you mean 'distill.pairs'"),
        ({"distill.space": "features"}, "There is no setting 'distill.space'. It is now called distill.images"),
        ({"pairs": 9}, "There is no setting 'pairs'"),
        ({"distill": {"pairs": 9}}, "There is no setting 'distill'"),
        ({"distill.pairs": 9.5}, "distill.pairs is 9.5"),
        ({"distill.pairs": None}, "distill.pairs is None"),
        ({"distill.merged": "maybe"}, "distill.merged is 'maybe'"),
        ({"evaluate.baselines": ["nearest"]}, "evaluate.baselines is 'nearest'"),
        ({"distill.method": "mine"}, "distill.method 'mine' is unknown. Known: apm, covmatch, lgm, lors"),
        ({"data.root": 7}, "data.root is 7"),
        ({"sweep.rungs": [5, True]}, "sweep.rungs is true, but must be a number."),
    ],
)
def test_a_mistake_is_named(settings: dict, said: str):
    with pytest.raises(ConfigError) as error:
        load(settings=settings)
    assert said in str(error.value)


def test_sections_stand_in_the_order_of_the_reference():
    sections = [line for line in to_yaml(load()).splitlines() if line[0] != " "]
    assert sections == [f"{field.name}:" for field in fields(Config)]


def test_letters_beyond_ascii_stay_readable():
    assert "root: Bären" in to_yaml(load(settings={"data.root": "Bären"}))


def test_a_loss_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill\.loss 'wbc' is unknown\. Did you mean 'wbce'\?"):
        load(settings={"distill.loss": "wbc"})
    with pytest.raises(ConfigError, match=r"experts\.loss .*none\.py:loss"):
        load(settings={"experts.loss": f"{tmp_path}/none.py:loss"})
    (tmp_path / "mine.py").write_text("def loss(logits, similarity):\n    return logits.mean()\n")
    assert load(settings={"distill.loss": f"{tmp_path}/mine.py:loss"}).distill.loss.endswith("mine.py:loss")


def test_a_path_may_name_a_variable_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PICTURES", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/who")
    file = tmp_path / "settings.yaml"
    file.write_text("data: {root: $PICTURES/flickr8k, images: '${PICTURES}_images'}\ncompare: {data: [~/other.yaml]}\n")
    config = load(file, settings={"place.store": "~/store", "evaluate.classes": "a~b"})
    assert config.data.root == f"{tmp_path}/flickr8k"
    assert config.data.images == f"{tmp_path}_images"
    assert config.compare.data == ("/home/who/other.yaml",)
    assert (config.place.store, config.evaluate.classes) == ("/home/who/store", "a~b")


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(value: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PICTURES", raising=False)
    if value is not None:
        monkeypatch.setenv("PICTURES", value)
    with pytest.raises(ConfigError, match=r"data\.root is '\$PICTURES/x', but the environment variable PICTURES is"):
        load(settings={"data.root": "$PICTURES/x"})
    with pytest.raises(ConfigError, match=r"compare\.data is '\$PICTURES/x\.yaml', but the environment variable"):
        load(settings={"compare.data": ["b.yaml", "$PICTURES/x.yaml"]})


def test_what_scripts_differ_in_stands_in_their_presets():
    coco, mtt, lors = (load(preset=name) for name in ("repblend-coco-500", "mtt-vl-flickr30k-100", "lors-coco-200"))
    assert (coco.distill.temperature, coco.experts.temperature, coco.features.augment) == (0.1, 0.07, "none")
    assert mtt.distill.temperature == pytest.approx(0.376, abs=1e-3)
    assert (mtt.students.epochs, mtt.students.batch_size, mtt.distill.loss) == (50, 64, "infonce")
    assert (lors.distill.steps, lors.distill.merged, lors.evaluate.checks) == (2000, True, 11)
    assert load(preset="tesla-vl-flickr30k-100-encoder").distill.loss == "wbce"
