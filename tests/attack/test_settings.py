"""Settings that nobody means: a file of any bytes, values of any type under every name, names that break tools."""

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from attacking import attack, flags
from hypothesis import given
from hypothesis import strategies as st

from raydd.config import Config
from raydd.errors import ConfigError, RayddError
from raydd.settings import flatten, load

NAMES = sorted(flatten(Config()))
_WORDS = ("", "[/b]", "\x1b[2J", "../..", "~nobody/x", "a'b\"c", "x" * 5000, "\u202e", "no", "1e400", "nan", "-1")
_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from(_WORDS),
    st.text(max_size=30),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.booleans()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.dictionaries(st.sampled_from(NAMES), _values, min_size=1, max_size=3))
@hypothesis.settings(max_examples=150)
def test_values_of_any_kind_are_taken_as_they_are_or_refused_by_name(settings: dict[str, Any]) -> None:
    try:
        config = load(settings=settings)
    except ConfigError as error:
        said = str(error)
        assert any(name in said for name in settings) or "last target epoch" in said, said
        assert len(said) < 3000
        return
    found = flatten(config)
    for name, value in settings.items():  # nothing is taken for something else in silence
        taken = list(found[name]) if isinstance(value, list) else found[name]
        if isinstance(value, str) and type(taken) in (int, float):
            assert taken == float(value), (name, value)
        elif not (isinstance(value, str) and {*value} & {*"$~"}):  # which stand for folders in a path
            assert (taken, isinstance(taken, bool)) == (value, isinstance(value, bool)), name


@given(st.one_of(st.binary(max_size=60), st.text("{}[]:&*!|>-?, \n\t'\"ab1~", max_size=60).map(str.encode)))
@hypothesis.settings(max_examples=150)
def test_a_file_of_any_bytes_is_settings_or_refused_by_its_path(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    try:
        load(file)
    except ConfigError as error:
        said = str(error)
    else:
        return
    assert str(file) in said or "setting" in said


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("distill: {pairs: 9, pairs: 10}", "'pairs' is there twice"),
        ("data: {root: a}\ndata: {root: b}", "'data' is there twice"),
        ("distill: {pairs: true}", "distill.pairs"),
        ("distill: {alpha: .inf}", "distill.alpha"),
        ("students: {weight_decay: -1}", "students.weight_decay"),
        ("experts: {width: -5}", "experts.width"),
        ("place: {threads: -1}", "place.threads"),
        ("place: {cache_gb: .nan}", "place.cache_gb"),
        ("place: {encode_batch: 0}", "place.encode_batch"),
        ("place: {device: meta}", "place.device"),
        ("sweep: {name: 'it''s'}", "sweep.name"),
        ("sweep: {name: ..}", "sweep.name"),
        ('sweep: {name: "a\\nb"}', "sweep.name"),
        (f"sweep: {{name: {'x' * 300}}}", "sweep.name"),
        ("sweep: {seed: 12345678901234567890}", "sweep.seed"),
        ("distill: {pairs: 017}", "017 would be read in base 8 or 60"),
        ("distill: {pairs: 1:30}", "1:30 would be read in base 8 or 60"),
        ("place: {device: 'cuda:\u0661'}", "place.device"),
        (f"sweep: {{name: {'字' * 100}}}", "at most 200 bytes"),
        ("compare: {pairs: [99, 99]}", "compare.pairs"),
        ("sweep: {objectives: [r_mean, r_mean]}", "sweep.objectives"),
        ("evaluate: {baselines: [random, random]}", "evaluate.baselines"),
        ("[" * 1000, "nested too deeply"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]", "no section 'a'"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
        ("\x00", "not YAML"),
    ],
)
def test_the_command_says_which(tmp_path: Path, text: str, culprit: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    assert attack("run", "--config", tmp_path / "s.yaml", "--print_config").is_refusal_of(culprit)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing", "large"])
def test_a_settings_file_that_is_none_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "s.yaml"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "large":
        with file.open("wb") as large:
            large.truncate(2**33)
    assert attack("run", "--config", file, "--print_config").is_refusal_of(str(file))


@pytest.mark.parametrize("value", ["[/b]", "[bold", ":x:", "\x1b[2J", "a\rb", "\udc80"])
@pytest.mark.parametrize("flag", ["--preset", "--distill.method", "--distill.loss", "--distill.pairs"])
def test_flags_of_markup_and_escape_characters_are_shown_as_text(flag: str, value: str) -> None:
    said = attack("run", flag, value, "--print_config")
    assert said.is_in_order()
    assert said.code == 2


_words = st.one_of(st.sampled_from(["--config", "--set", "run", "--help", "--", "-", "="]), st.text(max_size=9))


@given(st.lists(_words, max_size=3))
@hypothesis.settings(max_examples=10, phases=[hypothesis.Phase.generate])
def test_any_command_line_ends_in_order(arguments: list[str]) -> None:
    assert attack("verify", *arguments, "--print_config").is_in_order()


def test_yaml_of_every_setting_is_read_back(tmp_path: Path) -> None:
    tree: dict[str, dict[str, Any]] = {}
    for name, value in flatten(Config()).items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = list(value) if isinstance(value, tuple) else value
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(tree))
    assert load(tmp_path / "all.yaml") == Config()


def test_an_error_names_no_file_of_raydd_s_own() -> None:
    with pytest.raises(RayddError) as error:
        load("nowhere.yaml")
    assert "raydd/" not in str(error.value)


@pytest.mark.slow
def test_a_warm_start_from_no_sweep_is_refused_before_any_work(tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "space.py").write_text(
        "FIRST = ()\ndef small(trial):\n    trial.suggest_float('distill.image_lr', 0.01, 0.1)\n    return {}\n"
    )
    given = flags(tiny_data, tmp_path / "home", sweep_space=f"{tmp_path}/space.py:small", sweep_warm_start="[/b]")
    assert attack("sweep", *given).is_refusal_of("sweep.warm_start is '[/b]'")
    assert not list((tmp_path / "home" / "store").rglob("manifest.json"))
