import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_sets import config, made, provenance

from raydd.config import Config
from raydd.errors import ConfigError, RecordError
from raydd.sets.provenance import Provenance, selection_rule
from raydd.settings import load

VALID = provenance(made()).as_json()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values inside a JSON value, itself the first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, part in inside for path in paths(part, (*at, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any, *, drop: bool = False) -> Any:
    copy = json.loads(json.dumps(value))
    if not path:
        return new
    place = copy
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return copy


def test_what_was_written_is_read_back():
    written = provenance(made())
    assert Provenance.from_json(json.loads(json.dumps(written.as_json()))) == written
    assert written.config() == config()
    assert written.stored_bytes == made().stored_bytes
    assert not any(name.startswith(("place.", "sweep.", "compare.")) for name in written.settings)


def test_every_field_is_required_but_those_with_a_default():
    for name in set(VALID) - {"first_captions", "cpu_seconds", "device"}:
        with pytest.raises(RecordError, match=f"the field {name} is missing"):
            Provenance.from_json(changed(VALID, (name,), None, drop=True))


@pytest.mark.parametrize("value", [{}, [], None, "set", 3, float("nan"), {"settings": []}])
def test_what_is_no_provenance_is_refused_with_its_file(value: Any):
    with pytest.raises(RecordError, match=r"^here/manifest\.json does not describe a synthetic set"):
        Provenance.from_json(value, "here/manifest.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("pairs",), 0),
        (("pairs",), -1),
        (("pairs",), 10**12),
        (("pairs",), "4"),
        (("pairs",), 4.5),
        (("pairs",), True),
        (("width",), 10**9),
        (("seconds",), float("nan")),
        (("seconds",), float("inf")),
        (("seconds",), -1.0),
        (("peak_bytes",), -1),
        (("temperature",), 0),
        (("times_learned_rates",), 0),
        (("protocol",), "both"),
        (("data", "name"), None),
        (("data", "fingerprint"), ["a"]),
        (("encoders", "image"), "efficientnet-lite0"),
        (("encoders", "text", "identity"), 3),
        (("upstream", "experts"), "../../etc/passwd"),
        (("settings", "students.weight_decay"), float("nan")),
        (("settings", "data.name"), {"a": 1}),
        (("first_captions",), "a"),
        (("loss",), "x" * 10_000),
    ],
)
def test_a_wrong_value_is_named_with_its_field(path: tuple[str, ...], value: Any):
    with pytest.raises(RecordError, match=rf"the field {'.'.join(path)}.* is .*Copy the set again"):
        Provenance.from_json(changed(VALID, path, value))


def test_a_field_that_contradicts_its_setting_is_refused():
    with pytest.raises(RecordError, match=r"contradicts itself: its setting distill\.protocol is 'heads'"):
        Provenance.from_json(changed(VALID, ("protocol",), "encoder"))


def test_fields_of_a_newer_raydd_are_passed_over():
    newer = changed(changed(VALID, ("colour",), "green"), ("data", "licence"), "MIT")
    assert Provenance.from_json(newer) == Provenance.from_json(VALID)


@settings(max_examples=300)
@given(st.sampled_from(paths(VALID)), JSON, st.booleans())
def test_any_change_gives_a_record_error_or_a_provenance_that_is_read_back(path, new, drop):
    try:
        found = Provenance.from_json(changed(VALID, path, new, drop=drop and bool(path)))
    except RecordError:
        return
    assert Provenance.from_json(found.as_json()) == found
    with suppress(RecordError, ConfigError):
        assert isinstance(found.config(), Config)


def test_nesting_without_end_is_refused():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecordError):
        Provenance.from_json(deep)


def test_the_user_s_settings_win():
    found = provenance(made()).config({"evaluate.seeds": 9, "data.root": "/elsewhere", "place.device": "cpu"})
    assert (found.evaluate.seeds, found.data.root, found.place.device) == (9, "/elsewhere", "cpu")
    assert found.distill.pairs == 4
    with pytest.raises(ConfigError, match=r"no setting 'distill\.colour'"):
        provenance(made()).config({"distill.colour": 1})


def test_settings_are_read_under_the_names_of_today():
    renamed = changed(VALID, ("settings", "distill.space"), VALID["settings"]["distill.images"])
    del renamed["settings"]["distill.images"]
    assert Provenance.from_json(renamed) == Provenance.from_json(VALID)


def test_settings_that_this_version_lacks_are_left_out_and_named():
    newer = Provenance.from_json(changed(VALID, ("settings", "distill.colour"), 3))
    assert newer.config() == config()
    assert newer.unknown_settings == ("distill.colour",)


def test_a_setting_that_this_version_refuses_is_a_record_error():
    newer = Provenance.from_json(changed(VALID, ("settings", "distill.blend"), "sharp"))
    with pytest.raises(RecordError, match=r"settings that this version of raydd refuses.*distill\.blend is 'sharp'"):
        newer.config()


def test_where_a_run_goes_is_never_taken_from_a_set():
    names = {"place.home": "/x", "sweep.space": "evil.py:space", "evaluate.encoders": ["evil:image"]}
    stranger = VALID
    for name, value in names.items():
        stranger = changed(stranger, ("settings", name), value)
    found = Provenance.from_json(stranger).config()
    assert (found.place, found.sweep, found.evaluate.encoders) == (Config().place, Config().sweep, ())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data.reader", "evilmod:read"),
        ("distill.method", "/tmp/evil.py:METHOD"),
        ("encoders.image", "evilmod:image"),
        ("encoders.image", "timm:resnet18"),
        ("encoders.image", "open_clip:ViT-B-32/openai"),
        ("encoders.image", "joined:efficientnet-lite0,evilmod:image*0.5"),
        ("encoders.text", "hf:someone/model"),
    ],
)
def test_names_of_code_have_to_be_repeated(setting: str, value: str):
    stranger = changed(VALID, ("settings", setting), value)
    section, _, name = setting.partition(".")
    if section == "encoders":
        stranger = changed(stranger, ("encoders", name, "name"), value)
    found = Provenance.from_json(stranger)
    with pytest.raises(ConfigError, match=rf"{setting} .*repeat it: --{setting} "):
        found.config()
    assert getattr(getattr(found.config({setting: value}), section), name) == value


def test_another_loss_does_not_trust_the_loss_of_a_set():
    stranger = changed(changed(VALID, ("settings", "distill.loss"), "evil.py:loss"), ("loss",), "evil.py:loss")
    with pytest.raises(ConfigError, match=r"distill\.loss evil\.py:loss, which would run code"):
        Provenance.from_json(stranger).config({"distill.loss": "infonce"})


def test_encoders_of_raydd_need_no_repeating():
    joined = "joined:efficientnet-lite0,efficientnet-lite1*0.5"
    stranger = changed(changed(VALID, ("settings", "encoders.image"), joined), ("encoders", "image", "name"), joined)
    assert Provenance.from_json(stranger).config().encoders.image == joined


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "nothing is chosen on test"),
        ({"evaluate.split": "val"}, "chosen on val, the split that is scored"),
        ({"evaluate.choice": "best-on-split"}, "Best of 6 checks of each student on test, the split that is scored"),
        ({"distill.fit_rates": False, "evaluate.baselines": []}, "step; nothing is chosen on test"),
        (
            {"distill.fit_rates": False, "evaluate.baselines": [], "evaluate.split": "val"},
            "step; nothing is chosen on val",
        ),
    ],
)
def test_the_selection_rule_is_what_was_done(changes: dict[str, Any], said: str):
    rule = selection_rule(load(settings=changes))
    assert said in rule
    assert ("nothing is chosen" in rule) == ("nothing is chosen" in said)


def test_a_set_tells_whether_its_rates_were_fitted():
    fitted = provenance(made()).selection
    kept = provenance(made(), config(**{"distill.fit_rates": False})).selection
    assert "chosen by a student's val r_mean" in fitted
    assert "with its learned learning rates" in kept
