"""The [suite] of a gate TOML: every mistake at once, what cannot work together, and the same hash on every machine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import toml
from PIL import Image

from musubi_ext.errors import UserError
from musubi_ext.evaluation.metric_limits import MetricLimits
from musubi_ext.evaluation.metrics import Better
from musubi_ext.evaluation.thresholds import Thresholds
from musubi_ext.registry.gate_file import Gate
from musubi_ext.registry.suite_config import Suite

SHIPPED = Path(__file__).parents[2] / "mlflow_projects" / "gate.toml"
REAL = """
[motion]
metric = "motion_magnitude"
[gate]
min_scenes = 2
[metrics.temporal_flicker]
max_loss = 0.1
max = 5
"""
PROMPTS = """
[suite]
size = [32, 32]
frames = 5
steps = 2
prompts = "asked/prompts.toml"
"""


def gate(folder: Path, text: str) -> Gate:
    path = folder / "gate.toml"
    path.write_text(text)
    return Gate.load(path)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Two prompts with pictures, in a folder of their own."""
    folder = tmp_path / "asked"
    folder.mkdir()
    for index, name in enumerate(("car", "van", "end")):
        Image.new("RGB", (40, 32), (60 * index, 80, 90)).save(folder / f"{name}.png")
    prompts = [
        {"prompt": "a car", "first": "car.png", "seed": 7},
        {"prompt": "a van", "first": "van.png", "last": "end.png"},
    ]
    (folder / "prompts.toml").write_text(toml.dumps({"prompts": prompts}))
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return folder


def test_the_shipped_file_states_the_defaults_and_its_comments_are_a_valid_suite(tmp_path: Path) -> None:
    shipped = Gate.load(SHIPPED)
    assert (shipped.thresholds, shipped.suite, shipped.written) == (Thresholds(), Suite(), False)
    lines = SHIPPED.read_text().split("# [suite]\n")[1].splitlines()
    keys = [line.removeprefix("# ") for line in lines if re.match(r"# \w+ = ", line) and "models" not in line]
    written = gate(tmp_path, "\n".join(["[suite]", *keys]))
    assert written.written
    default = Suite(settings={"steps": 12})  # which the default leaves to the pair; the pocket's have 12
    assert written.suite == default


def test_rendered_scenes_and_seeds(tmp_path: Path) -> None:
    suite = gate(tmp_path, "[gate]\nmin_scenes = 2\n[suite]\nscenes = 2\nscene_seed = 5\nseeds = [1, 9]\n").suite
    shots = suite.shots()
    assert [shot.name for shot in shots] == [
        "orbit_train_000005_rl_s1",
        "orbit_train_000005_rl_s9",
        "orbit_train_000006_lr_s1",
        "orbit_train_000006_lr_s9",
    ]
    assert [shot.seed for shot in shots] == [1, 9, 2, 10]
    assert (suite.rendered, suite.count) == (True, 2)


def test_prompts_with_pictures_have_one_hash_wherever_they_lie(tmp_path: Path, asked: Path) -> None:
    first = gate(tmp_path, REAL + PROMPTS).suite
    assert [(shot.name, shot.seed) for shot in first.shots()] == [("scene_000", 7), ("scene_001", 43)]
    assert (first.masks, first.settings, first.count) == ("flow", {"steps": 2}, 2)
    assert {path.name for path in first.files} == {"car.png", "van.png", "end.png", "prompts.toml"}
    assert str(tmp_path) not in json.dumps(first.record())
    before = first.digest()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(asked, elsewhere / "asked")
    assert gate(elsewhere, REAL + PROMPTS.replace(".toml", ".json")).suite.digest() == before
    Image.new("RGB", (40, 32), (0, 0, 1)).save(asked / "car.png")
    assert gate(tmp_path, REAL + PROMPTS).suite.digest() != before


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        gate(
            tmp_path,
            "[gate]\nmin_motoin_ratio = 1\n[suite]\nscens = 3\nscenes = 0\nframes = 6\nsize = [30, 32]\n"
            'seeds = [1, 1]\nshapes = "odd"\nmetrics = ["psnrr"]\nmasks = "truth"\nshift = "5"\nmodels = "nowhere"\n',
        )
    text = str(caught.value)
    for part in (
        "did you mean min_motion_ratio?",
        "suite.scens: unknown key (did you mean scenes?)",
        "suite.scenes: expected a whole number from 1 to 10000, found 0",
        "suite.frames: expected 4n+1, found 6",
        "suite.size: expected [width, height], multiples of 16, found [30, 32]",
        "suite.seeds: expected a list of different whole numbers, found [1, 1]",
        "suite.shapes: expected one of known, unseen, found 'odd'",
        "suite.metrics: 'psnrr' is not a metric (did you mean psnr?)",
        "suite.masks: expected one of color, flow, sam2, found 'truth'",
        "suite.shift: expected a number from 0.1 to 100, found '5'",
        "suite.models: expected a folder of learned weights, found none",
    ):
        assert part in text
    assert len(caught.value.problems) == 11


def test_mistakes_in_prompts(tmp_path: Path, asked: Path) -> None:
    (asked / "prompts.toml").write_text(
        '[[prompts]]\nprompt = " "\nfirst = "gone.png"\n[[prompts]]\nprompt = "x"\nfrist = "car.png"\nseed = -1\n'
    )
    with pytest.raises(UserError) as caught:
        gate(tmp_path, REAL + PROMPTS + "scenes = 3\n")
    text = str(caught.value)
    for part in (
        "prompts[0].prompt: expected a sentence, found ' '",
        "prompts[0].first: expected a picture on this disk, found none at 'gone.png'",
        "prompts[1].frist: unknown key (did you mean first?)",
        "prompts[1].first: missing",
        "prompts[1].seed: expected a whole number of at least 0, found -1",
        "suite.scenes: for rendered scenes, but there are prompts",
    ):
        assert part in text
    with pytest.raises(UserError, match="cannot be read"):
        gate(tmp_path, REAL + PROMPTS.replace("asked/", "gone/"))
    with pytest.raises(UserError, match=r"suite.size: missing .*\n.*suite.frames: missing"):
        gate(tmp_path, REAL + '[suite]\nprompts = "asked/prompts.json"\n')


def test_what_cannot_work_together_is_refused_before_anything_is_filmed(tmp_path: Path, asked: Path) -> None:
    with pytest.raises(UserError, match=r"the suite has 3 scenes, gate.min_scenes asks for 5 \(more seeds"):
        gate(tmp_path, "[suite]\nscenes = 3\nseeds = [1, 2, 3]\n")
    with pytest.raises(UserError, match=r"suite.metrics: motion_ratio is missing.*\n.*subject_drift is missing"):
        gate(tmp_path, '[suite]\nmetrics = ["direction_subject_correct", "psnr"]\n')
    with pytest.raises(UserError, match="the gate's check of drift needs rendered scenes"):
        gate(tmp_path, "[gate]\nmin_scenes = 2\n" + PROMPTS)


def test_the_first_version_is_asked_for_what_is_absolute(tmp_path: Path, asked: Path) -> None:
    limits, left_out = gate(tmp_path, REAL + PROMPTS).for_first_version()
    assert left_out == ("temporal_flicker.max_loss",)
    assert limits.metrics == {"temporal_flicker": MetricLimits(better=Better.LOWER, max=5)}
    limits, left_out = Gate.load(SHIPPED).for_first_version()
    assert (limits.built_in, left_out) == (("direction",), ("drift",))
    assert limits.min_motion_ratio == 0.7


def test_a_gate_with_a_suite_is_one_for_compare_too(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("[gate]\nmin_scenes = 7\n\n[suite]\nscenes = 8\n", encoding="utf-8")
    assert Thresholds.load(path).min_scenes == 7
