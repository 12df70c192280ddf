"""Each measure on pictures made to have or lack the fault; each limit on both of its sides; captions against motion."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from musubi_ext.errors import UserError
from musubi_ext.orbits.checks import measures
from musubi_ext.orbits.checks.captions import Convention
from musubi_ext.orbits.checks.clip import Measured
from musubi_ext.orbits.checks.duplicates import BITS, BLOCK, look, nearest_before
from musubi_ext.orbits.checks.sources import Listed
from musubi_ext.orbits.checks.thresholds import AUTO, CAMERA, PICTURE, Thresholds, load_thresholds
from musubi_ext.orbits.checks.verdicts import CHECKS, FIT, UNFIT, UNREADABLE, Verdict, conventions_of, judge
from musubi_ext.orbits.config import DatasetConfig, VideoDataset

TOML = Path(__file__).parents[2] / "dataset_toml" / "checks.toml"
DATASET = VideoDataset(Path("cache"), Path("clips"), resolution=(64, 64), target_frames=(17,))
CONFIG = DatasetConfig(Path("set.toml"), (DATASET,))
GOOD = Measured(
    width=64,
    height=64,
    fps=16.0,
    codec="h264",
    size=(64, 64),
    direction=+1,
    values={
        **{"decoded": 1.0, "frames": 17.0, "fps_error": 0.0, "enlargement": 1.0, "sharpness": 300.0, "cut": 0.6},
        **{"bars": 0.0, "frozen": 0.0, "swept_angle": 60.0, "steadiness": 0.1, "centring": 0.05},
        **{"centring_spread": 0.02, "loop_closure": 0.5, "confidence": 0.9},
    },
    look="0" * (BITS // 4),
)


def panning(seed: int, frames: int = 17, step: int = 2, size: int = 96) -> np.ndarray:
    """Gray uint8 (F, size, size): a window over a random picture, moving `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(30, 220, (12, 40), np.uint8), (size * 4, size), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, step * index : step * index + size] for index in range(frames)])


def verdict(clip: Measured, limits: Thresholds | None = None, **listed: str) -> Verdict:
    entry = Listed(0, Path("cat.mp4"), **{"caption": "camera circles right to left, a cat", **listed})
    return judge(CONFIG, limits or Thresholds(), [entry], ["a"], [clip])[0]


def test_sharpness_falls_with_blur_and_is_zero_on_a_flat_picture() -> None:
    gray = panning(0)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in gray])
    assert measures.sharpness(gray) > 2 * measures.sharpness(blurred)
    assert measures.sharpness(np.full_like(gray, 90)) == 0.0


def test_a_still_is_frozen_and_has_no_cut() -> None:
    steps = measures.frame_steps(np.repeat(panning(0)[:1], 9, axis=0))
    assert measures.frozen_share(steps) == 1.0
    assert measures.cut_strength(steps) == 0.0


def test_doubled_frames_are_half_frozen_and_no_cut() -> None:
    gray = panning(1)
    steps = measures.frame_steps(np.repeat(gray, 2, axis=0))
    assert measures.frozen_share(steps) == pytest.approx(17 / 33)
    assert measures.cut_strength(steps) == pytest.approx(measures.cut_strength(measures.frame_steps(gray)), rel=0.1)


@pytest.mark.parametrize("at", [2, 8, 15])
def test_a_cut_stands_out_wherever_it_is(at: int) -> None:
    whole, other = panning(2), panning(3)
    assert measures.cut_strength(measures.frame_steps(whole)) < 1.2
    assert measures.cut_strength(measures.frame_steps(np.concatenate([whole[:at], other[at:]]))) > 1.6


def test_one_frame_has_no_steps() -> None:
    steps = measures.frame_steps(panning(0)[:1])
    assert (measures.cut_strength(steps), measures.frozen_share(steps)) == (0.0, 0.0)


def test_bars_are_measured_as_a_share_of_the_picture() -> None:
    gray = panning(4)
    assert measures.bar_share(gray) == 0.0
    gray[:, :12] = gray[:, -12:] = 16
    assert measures.bar_share(gray) == pytest.approx(24 / 96)
    gray[:, :, :24] = 3
    assert measures.bar_share(gray) == pytest.approx(1 - (72 / 96) ** 2)
    assert measures.bar_share(np.full_like(gray, 10)) == 1.0


def test_a_scaled_and_noisy_copy_is_near_and_another_scene_is_not() -> None:
    first, other = panning(5), panning(6)
    noise = np.random.default_rng(0).normal(0, 4, first.shape)
    copy = np.stack([cv2.resize(frame, (48, 48)) for frame in np.clip(first + noise, 0, 255).astype(np.uint8)])
    _, near, far = nearest_before(["a", "b", "c"], [look(first), look(copy), look(other)])
    assert near is not None
    assert near.distance < 0.04
    assert far is not None
    assert far.distance > 0.1


def test_nearest_before_is_what_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (BLOCK + 40, BITS // 8), np.uint8)
    looks = [row.tobytes().hex() for row in packed]
    looks[3] = looks[BLOCK + 9] = ""  # clips that could not be read
    digests = [str(index) for index in range(len(looks))]
    digests[BLOCK + 20] = digests[5]
    found = nearest_before(digests, looks)
    assert found[0] is None
    assert found[3] is None
    assert found[BLOCK + 20] is not None
    assert (found[BLOCK + 20].index, found[BLOCK + 20].identical) == (5, True)  # type: ignore[union-attr]
    bits = np.unpackbits(packed, axis=1)
    for clip in (1, 4, BLOCK, BLOCK + 39):
        earlier = [index for index in range(clip) if looks[index]]
        least = min((bits[clip] != bits[index]).sum() for index in earlier) / BITS
        assert found[clip].distance == pytest.approx(least)  # type: ignore[union-attr]


RIGHT, LEFT = "camera circles left to right, a cat", "camera circles right to left, a cat"  # the camera's own way
Spoken = tuple[str, int, float]  # caption, direction measured, its confidence


def judged(limits: Thresholds, *clips: Spoken, config: DatasetConfig = CONFIG) -> tuple[list[str], list[Convention]]:
    """What is wrong with each clip's caption, and the conventions found. Clips go round the data sets in turn."""
    tables = len(config.datasets)
    listed = [Listed(index % tables, Path(f"{index}.mp4"), clip[0]) for index, clip in enumerate(clips)]
    looks = np.random.default_rng(0).bytes(len(clips) * BITS // 8).hex()
    measured = [
        replace(
            GOOD,
            direction=way,
            values={**GOOD.values, "confidence": sure},
            look=looks[index * BITS // 4 :][: BITS // 4],
        )
        for index, (_, way, sure) in enumerate(clips)
    ]
    verdicts = judge(config, limits, listed, [str(index) for index in range(len(clips))], measured)
    assert all({reason.check for reason in one.reasons} <= {"caption"} for one in verdicts)
    faults = ["; ".join(reason.text for reason in one.reasons) for one in verdicts]
    return faults, list(conventions_of(config, limits, verdicts))


SAME, OTHER = (LEFT, +1, 0.9), (LEFT, -1, 0.93)  # captions that mean the camera's own way, and the picture's


@pytest.mark.parametrize(
    ("clips", "name", "follow", "wrong"),
    [
        ([SAME] * 5, CAMERA, 5, []),
        ([OTHER] * 5, PICTURE, 5, []),
        ([(RIGHT, +1, 0.9)] * 3 + [OTHER] * 2, PICTURE, 5, []),
        ([SAME] * 4 + [OTHER], CAMERA, 4, [4]),
        ([OTHER, SAME] + [OTHER] * 3, PICTURE, 4, [1]),
        ([SAME] * 41 + [OTHER], CAMERA, 41, [41]),
        ([SAME] * 79 + [OTHER] * 21, "", 0, []),
        ([SAME] * 80 + [OTHER] * 20, CAMERA, 80, [*range(80, 100)]),
        ([SAME] * 4, "", 0, []),
        (
            [SAME] * 4 + [("a cat", +1, 0.9), (LEFT, 0, 0.9), (LEFT, +1, 0.49), (LEFT + ", left to right", 1, 0.9)],
            "",
            0,
            [7],
        ),
        ([SAME] * 5 + [(LEFT, -1, 0.49), ("a cat", -1, 0.9)], CAMERA, 5, []),
        ([SAME] * 5 + [("camera orbits to the left", -1, 0.5)], CAMERA, 5, [5]),
        ([], "", 0, []),
    ],
)
def test_what_a_direction_means_is_learned_from_the_data_set(
    clips: list[Spoken], name: str, follow: int, wrong: list[int]
) -> None:
    faults, (convention,) = judged(Thresholds(), *clips)
    assert (convention.name, convention.follow, convention.learned) == (name, follow, True)
    assert [index for index, fault in enumerate(faults) if fault] == wrong
    assert bool(convention.unavailable) == (not name)
    assert convention.sentence().startswith(f'"{name}"' if name else "unavailable: ")
    assert not name or f"{follow} of {convention.clips} clips" in convention.sentence()


def test_a_caption_against_the_data_set_is_told_by_the_other_clips() -> None:
    faults, _ = judged(Thresholds(), *[OTHER] * 20, *[(RIGHT, +1, 0.8)] * 20, (RIGHT, -1, 0.93), (LEFT, +1, 1.0))
    assert faults[-2:] == [
        "the caption says left to right, but the camera circles the other way than in the 20 of 21 clips that say so"
        " (confidence 0.93)",
        "the caption says right to left, but the camera circles the other way than in the 20 of 21 clips that say so"
        " (confidence 1.00)",
    ]
    faults, _ = judged(Thresholds(), *[OTHER] * 6, (RIGHT, -1, 0.9))  # nobody else says left to right
    assert faults[-1] == (
        "the caption says left to right, but the camera circles the same way as in the 6 of 6 clips that say"
        " right to left (confidence 0.90)"
    )


def test_why_there_is_no_convention_is_said_with_the_remedy() -> None:
    few = judged(Thresholds(), SAME)[1][0].sentence()
    assert few.startswith(
        "unavailable: 1 clip with a direction both in the caption and measured with confidence 0.5, 5"
    )
    assert 'set caption_direction = "camera" or "picture"' in few
    split = judged(Thresholds(), *[SAME] * 6, *[OTHER] * 4)[1][0].sentence()
    assert "6 of 10 clips name the camera's own way, 4 the way the subject's near side passes" in split
    off = judged(Thresholds(caption_direction=None), *[SAME] * 6)[1][0].sentence()
    assert off == "unavailable: caption_direction = false"


@pytest.mark.parametrize(("setting", "wrong"), [(CAMERA, 1), (PICTURE, 0), (None, None)])
def test_a_convention_that_is_given_holds_for_any_number_of_clips(setting: str | None, wrong: int | None) -> None:
    faults, (convention,) = judged(Thresholds(caption_direction=setting), SAME, OTHER)
    assert [index for index, fault in enumerate(faults) if fault] == ([] if wrong is None else [wrong])
    assert (convention.name, convention.learned) == (setting or "", setting is None)
    if wrong is not None:
        assert f'(caption_direction = "{setting}")' in faults[wrong]
        assert "as caption_direction says: 1 of 2 clips" in convention.sentence()


def test_each_data_set_has_its_own_convention() -> None:
    config = replace(CONFIG, datasets=(DATASET, replace(DATASET, cache_directory=Path("other")), DATASET))
    clips = [clip for _ in range(5) for clip in (SAME, OTHER, ("a cat", 0, 0.0))]
    faults, conventions = judged(Thresholds(), *clips, config=config)
    assert [one.name for one in conventions] == [CAMERA, PICTURE, ""]
    assert not any(faults)


def test_without_a_least_confidence_every_measured_direction_counts() -> None:
    clips = [(LEFT, -1, 0.05)] * 5
    assert judged(Thresholds(), *clips)[1][0].name == ""
    assert judged(Thresholds(min_confidence=None), *clips)[1][0].name == PICTURE


def test_a_caption_that_names_both_directions_is_unfit_whatever_is_measured() -> None:
    for caption in (f"{LEFT}, then left to right", "camera orbits left and right"):
        (fault,), _ = judged(Thresholds(), (caption, +1, 0.9))
        assert "names both directions" in fault


BAD = {
    "decoded": (0.5, "only 50% of its frames decode"),
    "frames": (9.0, "9 frames, 17 are needed"),
    "fps_error": (0.875, "read as 16"),
    "enlargement": (2.0, "enlarged 2.00 times"),
    "sharpness": (3.0, "sharpness 3, expected 50"),
    "cut": (5.0, "a cut"),
    "bars": (0.2, "black bars cover 20.0%"),
    "frozen": (0.5, "stretched by doubling frames"),
    "swept_angle": (4.0, "sweeps 4.0°, 10° or more"),
    "steadiness": (0.9, "unsteadily"),
    "centring": (0.5, "off the middle"),
    "centring_spread": (0.4, "wanders"),
    "loop_closure": (-0.2, "loop"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_makes_a_clip_unfit_for_that_reason_alone(name: str) -> None:
    value, words = BAD[name]
    key = next(check.limit for check in CHECKS if check.name == name)
    limits = Thresholds(min_loop_closure=0.4)
    clip = replace(GOOD, values={**GOOD.values, name: value})
    assert verdict(GOOD, limits).state == FIT
    bad = verdict(clip, limits)
    assert bad.state == UNFIT
    assert [reason.check for reason in bad.reasons] == [name]
    assert words in bad.reasons[0].text
    if name != "frames":  # without enough frames no window can be cut, whatever the limits
        assert verdict(clip, replace(limits, **{key: None})).state == FIT


def test_every_check_has_a_bad_value_here() -> None:
    assert {check.name for check in CHECKS} == {*BAD, "copy_distance"}


def test_a_missing_caption_is_a_reason_unless_captions_are_not_asked_for() -> None:
    bad = verdict(GOOD, caption="", caption_problem="no caption: expected cat.txt")
    assert [(reason.check, reason.text) for reason in bad.reasons] == [("caption", "no caption: expected cat.txt")]
    assert verdict(GOOD, Thresholds(require_caption=False), caption="", caption_problem="no caption").state == FIT


def test_an_orbit_that_cannot_be_measured_is_an_answer_and_a_reason_only_where_asked() -> None:
    clip = replace(
        GOOD, direction=0, values={**GOOD.values, "swept_angle": None}, unavailable={"swept_angle": "too few tracks"}
    )
    assert verdict(clip).state == FIT
    bad = verdict(clip, Thresholds(require_orbit=True))
    assert bad.reasons[0].text == "its orbit cannot be measured: too few tracks"


def test_unreadable_keeps_its_reason_and_copies_name_the_first() -> None:
    assert verdict(Measured(unreadable="moov atom not found")).state == UNREADABLE
    entries = [Listed(0, Path(name), "a cat") for name in ("a/cat.mp4", "b/cat.mp4", "c/kitten.mp4")]
    near = replace(GOOD, look="1" + GOOD.look[1:])
    found = judge(CONFIG, Thresholds(), entries, ["x", "x", "y"], [GOOD, GOOD, near])
    assert [clip.state for clip in found] == [FIT, UNFIT, UNFIT]
    assert found[1].reasons[0].text == "the same file as a/cat.mp4 (remove one)"
    assert found[2].reasons[0].text.startswith("looks like a/cat.mp4: 0.3%")


def test_the_shipped_limits_are_the_defaults_and_all_of_them() -> None:
    assert load_thresholds(TOML) == load_thresholds(None) == Thresholds()
    text = TOML.read_text(encoding="utf-8")
    assert all(f"\n{field.name} = " in text for field in fields(Thresholds))


def test_every_wrong_limit_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(
        "other = 1\n[checks]\nmin_sharpnes = 3\nmax_cut = -1\nmax_bars = true\nrequire_caption = 0\nmax_frozen = nan\n"
        f"caption_direction = true\nmin_frames = 1{'0' * 400}\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError) as raised:
        load_thresholds(file)
    assert len(raised.value.problems) == 8
    assert "nearest known key: min_sharpness" in str(raised.value)
    file.write_text("[checks]\nmax_cut = false\nmin_sharpness = 7\n", encoding="utf-8")
    assert load_thresholds(file) == Thresholds(max_cut=None, min_sharpness=7.0)
    for text, value in (("false", None), *((f'"{name}"', name) for name in (AUTO, CAMERA, PICTURE))):
        file.write_text(f"[checks]\ncaption_direction = {text}\n", encoding="utf-8")
        assert load_thresholds(file) == Thresholds(caption_direction=value)
    with pytest.raises(UserError, match="found nothing"):
        load_thresholds(tmp_path / "none.toml")
