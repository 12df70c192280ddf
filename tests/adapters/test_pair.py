"""A pair on disk: all three files or none, and only ever what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_lora import lora

from musubi_ext.adapters.files import read_lora, write_lora
from musubi_ext.adapters.formats import convert
from musubi_ext.adapters.keys import Format
from musubi_ext.adapters.pair import AdapterPair, compare
from musubi_ext.adapters.staging import publish
from musubi_ext.errors import UserError
from musubi_ext.schedule.experts import Expert
from musubi_ext.storage import sha256

FILES = ["orbit.pair.json", "orbit_h.safetensors", "orbit_l.safetensors"]


@pytest.fixture
def pair(folder: Path) -> AdapterPair:
    return AdapterPair.save(
        folder,
        "orbit",
        lora(1),
        lora(2, rank=2),
        steps={Expert.HIGH: 50, Expert.LOW: 60},
        timestep_ranges={Expert.HIGH: (0.9, 1.0), Expert.LOW: (0.0, 0.9)},
        inference={"shift": 5.0, "steps": 12},
        metadata={Expert.HIGH: {"ss_steps": "50"}},
    )


def edit(pair: AdapterPair, **changes: Any) -> Path:
    """Write another manifest over the pair's own; a key "experts.high.rank" reaches inside."""
    manifest = json.loads(pair.path.read_text())
    for path, value in changes.items():
        *parents, last = path.split(".")
        target = manifest
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[last]
        else:
            target[last] = value
    pair.path.write_text(json.dumps(manifest))
    return pair.path


def test_three_files_and_what_they_say(pair: AdapterPair, folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert {key: path.name for key, path in pair.files().items()} == dict(
        zip(("manifest", "high", "low"), FILES, strict=True)
    )
    assert pair.manifest["task"] == "pocket-i2v"
    assert pair.manifest["boundary"] == 0.9
    assert pair.manifest["transformer"] == {"dim": 32, "ffn_dim": 48, "layers": 2}
    assert pair.manifest["experts"]["low"] == {
        "file": "orbit_l.safetensors",
        "sha256": sha256(folder / "orbit_l.safetensors"),
        "rank": 2,
        "alpha": 3.0,
        "modules": 20,
        "dtype": "float32",
        "steps": 60,
        "timestep_range": [0.0, 0.9],
    }
    assert read_lora(folder / "orbit_h.safetensors").metadata == {"ss_steps": "50"}


def test_it_comes_back_from_folder_and_manifest(pair: AdapterPair, folder: Path) -> None:
    for path in (folder, str(pair.path)):
        back = AdapterPair.load(path)
        assert back.manifest == pair.manifest
        assert back.state_dict(Expert.HIGH).keys() == lora(1).keys()
        assert all(torch.equal(back.state_dict(Expert.LOW)[key], tensor) for key, tensor in lora(2, rank=2).items())


def test_the_same_pair_is_the_same_bytes(pair: AdapterPair, tmp_path: Path) -> None:
    weights = {expert: convert(pair.state_dict(expert), Format.COMFYUI) for expert in Expert}  # any keys will do
    again = AdapterPair.save(tmp_path / "b", "orbit", weights[Expert.HIGH], weights[Expert.LOW])
    plain = AdapterPair.save(tmp_path / "c", "orbit", lora(1), lora(2, rank=2))
    assert [sha256(path) for path in again.files().values()] == [sha256(path) for path in plain.files().values()]


@pytest.mark.parametrize("name", FILES[1:])
def test_partial_changed_and_damaged_pairs_are_refused_by_file(pair: AdapterPair, folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(UserError, match=rf"{name}: sha256: expected .*replaced or damaged"):
        pair.verify()
    file.write_bytes(content[:-4])
    with pytest.raises(UserError, match=f"{name}: truncated"):
        AdapterPair.load(folder)
    file.unlink()
    with pytest.raises(UserError, match=f"{name}: missing, the pair orbit is partial"):
        AdapterPair.load(folder)


def test_both_files_are_reported_at_once(pair: AdapterPair, folder: Path) -> None:
    (folder / FILES[1]).unlink()
    write_lora(folder / FILES[2], lora(2, rank=3))
    with pytest.raises(UserError) as told:
        AdapterPair.load(folder)
    assert [problem.split(":")[0].split("/")[-1] for problem in told.value.problems] == [FILES[1], FILES[2], FILES[2]]
    assert "rank: expected 2" in told.value.problems[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema: expected 1, found 2"),
        ({"train_base": None}, "train_base: missing"),
        ({"task": "i2v"}, "task: expected one of i2v-A14B"),
        ({"boundary": 900}, "boundary: expected a number between 0 and 1"),
        ({"transformer": [1]}, "transformer: expected sizes by name"),
        ({"experts.low": None}, "experts.low: missing"),
        ({"experts.low.rank": None}, "experts.low.rank: missing"),
        ({"experts.low.file": "../../etc/passwd"}, "experts.low.file: expected the name"),
        ({"experts.low.file": "orbit_h.safetensors"}, "both experts name the file"),
        ({"experts.low.timestep_range": [0.9, 1.0]}, "experts.low: trained on t 0.9 to 1, .*swapped"),
        ({"experts.low.timestep_range": [0.9, 0.1]}, "timestep_range: expected"),
    ],
)
def test_manifests_that_cannot_be_true(pair: AdapterPair, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdapterPair.load(edit(pair, **changes))


def test_every_mistake_of_a_manifest_at_once(pair: AdapterPair) -> None:
    edit(pair, **{"task": "x", "boundary": 3, "experts.high.sha256": None, "experts.low": None})
    with pytest.raises(UserError) as told:
        AdapterPair.load(pair.path)
    assert len(told.value.problems) == 4


def test_folders_that_hold_no_pair_or_two(pair: AdapterPair, folder: Path, tmp_path: Path) -> None:
    AdapterPair.save(folder, "other", lora(3), lora(4))
    with pytest.raises(UserError, match=r"2 pairs in this folder: name one of orbit\.pair\.json, other\.pair\.json"):
        AdapterPair.load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pair in this folder"):
        AdapterPair.load(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file"):
        AdapterPair.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"expected a pair's folder or its NAME\.pair\.json"):
        AdapterPair.load(folder / FILES[1])
    pair.path.write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        AdapterPair.load(pair.path)


def test_a_refused_pair_leaves_nothing_behind(folder: Path) -> None:
    broken = lora(2)
    broken["lora_unet_blocks_0_ffn_0.lora_up.weight"][0, 0] = float("nan")
    partial = {key: tensor for key, tensor in lora(1).items() if "blocks_0_ffn_2.lora_up" not in key}
    with pytest.raises(UserError) as told:
        AdapterPair.save(folder, "orbit", partial, broken)
    assert [problem.split(":")[0] for problem in told.value.problems] == [str(folder / name) for name in FILES[1:]]
    for name in ("", "../x", "a/b", ".hidden", "a\nb", "x" * 101):
        with pytest.raises(UserError, match="name of the pair"):
            AdapterPair.save(folder, name, lora(1), lora(2))
    ranges = {Expert.HIGH: (0.0, 0.9), Expert.LOW: (0.0, 0.9)}
    with pytest.raises(UserError, match="swapped"):
        AdapterPair.save(folder, "orbit", lora(1), lora(2), timestep_ranges=ranges)
    assert not folder.exists()


@pytest.mark.parametrize("absent", range(3))
def test_a_failed_overwrite_keeps_the_old_pair(pair: AdapterPair, folder: Path, tmp_path: Path, absent: int) -> None:
    """Whichever of the three moves fails, the old pair is whole afterwards."""
    names = [*FILES[1:], FILES[0]]
    new = AdapterPair.save(tmp_path / "new", "orbit", lora(7), lora(8))
    (new.path.parent / names[absent]).unlink()
    with pytest.raises(FileNotFoundError):
        publish(new.path.parent, folder, names)
    assert AdapterPair.load(folder).manifest == pair.manifest
    assert sorted(file.name for file in folder.iterdir()) == FILES


def test_an_overwritten_pair_is_the_new_one(pair: AdapterPair, folder: Path) -> None:
    AdapterPair.save(folder, "orbit", lora(7), lora(8))
    assert torch.equal(
        AdapterPair.load(folder).state_dict(Expert.HIGH)["lora_unet_blocks_0_ffn_0.lora_up.weight"],
        lora(7)["lora_unet_blocks_0_ffn_0.lora_up.weight"],
    )
    assert sorted(file.name for file in folder.iterdir()) == FILES


def test_compare(pair: AdapterPair, tmp_path: Path) -> None:
    same = compare(pair, pair)
    assert same["identical"]
    assert same["manifest"] == {}
    doubled = {key: tensor * 2 if key.endswith(".alpha") else tensor for key, tensor in lora(1).items()}
    fewer = lora(2, rank=2, names=("self_attn.q",))
    other = compare(pair, AdapterPair.save(tmp_path / "b", "other", doubled, fewer))
    high, low = other["experts"]["high"], other["experts"]["low"]
    assert not other["identical"]
    assert high["cosine"] == pytest.approx(1)
    assert high["relative_difference"] == pytest.approx(1)
    assert high["norm_b"] == pytest.approx(2 * high["norm_a"])
    assert len(low["only_a"]) == 18
    assert not low["only_b"]
    assert other["manifest"]["experts.high.alpha"] == [3.0, 6.0]
    assert other["manifest"]["name"] == ["orbit", "other"]


def test_norms_of_compare_are_those_of_the_full_matrices(pair: AdapterPair) -> None:
    from musubi_ext.adapters.updates import updates

    deltas = torch.cat([update.delta().flatten() for update in updates(lora(1)).values()])
    assert compare(pair, pair)["experts"]["high"]["norm_a"] == pytest.approx(deltas.norm().item())
