"""An exported folder is scored by its own card's command, and the score is the one that the card expects."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_sets import ENCODERS, Made, flags, made_set, trained_set

import raydd
from raydd import stages
from raydd.cli import main
from raydd.errors import ConfigError
from raydd.export.exporting import export_set, exported_file_names
from raydd.export.hub import require_scorable, tolerance
from raydd.place import open_store
from raydd.sets.read import open_set
from raydd.settings import load, with_settings


def pushed(made: Made, folder: Path) -> Path:
    """What `--push` would upload, and nothing else."""
    settings = {"evaluate.seeds": 3, "experts.temperature": 0.2, "students.rate": "published"}
    settings |= {"experts.width": 12} if made.config.distill.protocol == "heads" else {}
    config = with_settings(made.config, settings)  # the command has to say what is no default
    files = export_set(made.folder, "hub", folder / "out", config)
    for name in exported_file_names(files, 6):
        (folder / "pushed" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "out" / name, folder / "pushed" / name)
    return folder / "pushed"


@pytest.mark.parametrize("which", ["features", "features-then-pixels", "centred", "encoder"])
def test_the_card_s_command_gives_the_card_s_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str):
    made = {"encoder": trained_set, "centred": lambda: made_set("features", centre=True)}.get(
        which, lambda: made_set(which)
    )()
    folder = pushed(made, tmp_path)
    text = (folder / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert str(made.home) not in text  # no path of the machine that wrote it
    command = shlex.split(shown.replace("\\\n", " ").replace("DATA", made.config.data.root))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAYDD_HOME", str(tmp_path / "home"))
    assert command[0] == "raydd"
    assert main([*command[1:], "--place.home", str(tmp_path / "home"), "--json", "out.json"]) == 0
    row = json.loads(Path("out.json").read_text())["row"]
    expected = re.findall(r"^\| (\S+) \| ([\d.]+) \| ± ([\d.]+) \|$", text, re.MULTILINE)
    assert [metric for metric, *_ in expected] == list(row["scores"])
    for metric, score, within in expected:
        mean, std = row["scores"][metric]
        assert mean == pytest.approx(float(score), abs=0.006)  # the same machine: nothing but the card's rounding
        assert float(within) == pytest.approx(tolerance(std, 3), abs=0.006)
    assert row["fingerprint"] == open_set(made.folder).provenance.data.fingerprint
    assert f"The data are tiny, fingerprint {row['fingerprint']}; `DATA` is the folder of your copy." in text
    assert ("centre: image_centre" in (folder / "set.yaml").read_text()) == (which == "centred")
    assert row["kB"] == round(open_set(made.folder).synthetic.stored_bytes / 1000, 1)


def test_the_command_of_a_user_exports_a_hub_folder(tmp_path: Path):
    made = made_set("features")
    assert main(["export", "--set", str(made.folder), "--to", "hub", str(tmp_path / "out"), *flags(made)]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "set.yaml", "synthetic.safetensors"}


def test_more_students_and_less_spread_leave_less_tolerance():
    assert tolerance(0.5, 2) == pytest.approx(1.0)
    assert tolerance(0.5, 8) == pytest.approx(0.5)
    assert tolerance(0.0, 5) == 0.1


def test_what_nobody_could_repeat_is_refused_before_anything_is_written(tmp_path: Path):
    made = made_set("features")
    opened = open_set(made.folder)
    own = replace(opened, synthetic=replace(opened.synthetic, loss="own.py:LOSS"))
    with pytest.raises(ConfigError, match=r"own.py:LOSS, which is code that other users do not have.*--to hf"):
        require_scorable(own, made.config)
    arguments = ["export", "--set", str(made.folder), "--to", "hub", str(tmp_path / "out"), *flags(made)]
    assert main([*arguments, "--evaluate.seeds", "1"]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="was made with the image encoder"):
        require_scorable(opened, load(settings={"encoders.text": ENCODERS[-1]}))


def test_the_card_s_command_runs_beside_an_encoder_of_the_user_s_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made, file = made_set("features"), Path(__file__).parents[1] / "tiny_encoders.py"
    (tmp_path / "sub").mkdir()
    shutil.copy(file, tmp_path / "sub")
    monkeypatch.chdir(tmp_path)
    given = {f"encoders.{side}": f"sub/tiny_encoders.py:{side}" for side in ("image", "text")}
    config = with_settings(made.config, {**given, "distill.steps": 2, "place.home": str(tmp_path / "home")})
    store = open_store(config.place)
    work = raydd.open(config, store)
    stages.final_synthetic(work)
    folder = Path(store.root) / stages.synthetic_record(work).folder
    export_set(folder, "hub", tmp_path / "out", config)
    assert "sub/" not in (tmp_path / "out" / "set.yaml").read_text()
    (shown,) = re.findall(r"```sh\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    command = shlex.split(shown.replace("\\\n", " ").replace("DATA", made.config.data.root))
    (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path / "out")
    assert main([*command[1:], "--place.home", str(tmp_path / "home")]) == 0
