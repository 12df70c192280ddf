"""Importing musubi-tuner leaves the program around it as it was, whether the import went well or not."""

from __future__ import annotations

import inspect
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from musubi_checkouts import make_checkout

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi import requirements, seams
from musubi_ext.hosts.musubi.importing import import_host, import_host_module
from musubi_ext.hosts.musubi.requirements import TORCHVISION, Requirement, missing, pip_command
from musubi_ext.hosts.seam import HostTrainer

ROOT = Path(__file__).resolve().parents[2]
Import = Callable[..., ModuleType]


def trainer_source(changed: dict[str, str | None] | None = None) -> str:
    """A WanNetworkTrainer with the methods of the table; `changed` spells some otherwise, None leaves one out."""
    methods = seams.EXPECTED | (changed or {})
    lines = [f"    def {name}({given}): pass" for name, given in methods.items() if given is not None]
    return "\n".join(["class WanNetworkTrainer:", *lines, ""])


NOISY = """
import logging
import torch, torchvision
print("Trying to import sageattention")
logging.basicConfig(level=logging.INFO)
def text_encoder(device=torch.cuda.current_device()):
    return device
import xformers
"""
FACTS = """
import json, logging, sys, torch
kept = torch.cuda.current_device, list(sys.path), logging.root.level, list(logging.root.handlers)
from musubi_ext.hosts.musubi.importing import import_host
host = import_host()
after = torch.cuda.current_device, sys.path[: len(kept[1])], logging.root.level, logging.root.handlers
assert after == kept, (after, kept)
assert import_host() is host
operators = hasattr(torch.ops.torchvision, "nms")
print(json.dumps({"operators": operators, "loaded": sys.modules["torchvision.extension"]._has_ops()}))
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Import]:
    """Import a stand-in checkout whose trainer module has the given text; afterwards nothing of it is left."""
    if lacking := missing():
        pytest.skip(f"modules that musubi-tuner needs are not installed: {pip_command(lacking)}")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "musubi_tuner"}
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "musubi_tuner").is_dir()])
    (tmp_path / "xformers.py").write_text("import warnings\nwarnings.warn('old name of torch', FutureWarning)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(tmp_path / "home"))

    def begin(text: str, version: str = "0.3.4") -> ModuleType:
        make_checkout(tmp_path / "home", version, text)
        return import_host()

    yield begin
    for name in [name for name in sys.modules if name.split(".")[0] in ("musubi_tuner", "xformers")]:
        del sys.modules[name]
    sys.modules.update(kept)


def surroundings() -> tuple[object, ...]:
    return torch.cuda.current_device, logging.root.level, list(logging.root.handlers), sys.stdout


def test_the_module_comes_and_the_program_stays(fresh: Import, capsys: pytest.CaptureFixture[str]) -> None:
    before = surroundings()
    host = fresh(NOISY + trainer_source())
    assert surroundings() == before
    assert capsys.readouterr() == ("", "")
    assert import_host() is host
    assert import_host_module("musubi_tuner.wan_train_network") is host
    if not torch.cuda.is_available():
        assert host.text_encoder() == torch.device("cpu")


def test_a_failed_import_leaves_nothing(fresh: Import, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before, path = surroundings(), list(sys.path)
    with pytest.raises(UserError, match=r"v?0\.3\.4 at .* cannot be imported: libGL\.so\.1") as refused:
        fresh(NOISY + "raise ImportError('libGL.so.1: cannot open shared object file')\n")
    assert len(refused.value.problems) == 1
    assert (surroundings(), sys.path) == (before, path)
    assert capsys.readouterr() == ("", "")
    source = tmp_path / "home" / "src" / "musubi_tuner" / "wan_train_network.py"
    source.write_text(trainer_source())
    assert import_host().WanNetworkTrainer


def test_an_error_of_its_own_is_not_taken_for_the_user_s(fresh: Import) -> None:
    before = surroundings()
    with pytest.raises(ZeroDivisionError):
        fresh(NOISY + "1 / 0\n")
    assert surroundings() == before


def test_several_threads_import_once(fresh: Import, tmp_path: Path) -> None:
    make_checkout(tmp_path / "home", "0.3.4", NOISY + trainer_source())
    found: list[ModuleType] = []
    threads = [threading.Thread(target=lambda: found.append(import_host())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_all_missing_modules_are_named_at_once(fresh: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "host_packages", lambda: Path("nowhere"))
    for name in ("einops", "cv2", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as refused:
        fresh(NOISY)
    (problem,) = refused.value.problems
    assert "einops, cv2, torchvision" in problem
    assert "(pip install einops opencv-python-headless && pip install --no-deps 'torchvision==0." in problem


def test_in_a_program_where_warnings_are_errors(tmp_path: Path) -> None:
    if lacking := missing():
        pytest.skip(f"modules that musubi-tuner needs are not installed: {pip_command(lacking)}")
    home = make_checkout(tmp_path / "home", "0.3.4", NOISY + trainer_source())
    (tmp_path / "xformers.py").write_text("import warnings\nwarnings.warn('old name of torch', FutureWarning)\n")
    environment = {**os.environ, "MUSUBI_TUNER_HOME": str(home), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    words = [sys.executable, "-W", "error", "-c", FACTS]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["operators"] is facts["loaded"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("changed", "version", "expected"),
    [
        ({}, "0.3.4", []),
        ({"compute_loss": seams.OTHERWISE["0.3.0"]["compute_loss"]}, "0.3.0", []),
        ({}, "0.3.0", ["compute_loss"]),
        ({"compute_loss": seams.OTHERWISE["0.3.0"]["compute_loss"]}, "0.3.1", ["compute_loss"]),
        ({"on_post_save": None, "call_dit": "self, args, *args2, **kwargs"}, "0.3.4", ["call_dit", "on_post_save"]),
        ({"extra_metadata": "self, args, logs=None"}, "0.3.4", ["extra_metadata"]),
    ],
)
def test_changed_methods_are_refused_by_name(changed: dict[str, str | None], version: str, expected: list[str]) -> None:
    space: dict[str, type] = {}
    exec(trainer_source(changed), space)
    problems: tuple[str, ...] = ()
    try:
        seams.check_seams(space["WanNetworkTrainer"], version)
    except UserError as error:
        problems = error.problems
    assert [problem.split(":")[0] for problem in problems] == [f"WanNetworkTrainer.{name}" for name in expected]
    for name, problem in zip(expected, problems, strict=True):
        assert f"expected ({seams.expected(version)[name]}), found " in problem
        assert f"musubi-tuner {version}" in problem


def test_the_import_checks_the_methods(fresh: Import) -> None:
    with pytest.raises(UserError, match=r"WanNetworkTrainer\.call_dit: expected .* found no such method"):
        fresh(trainer_source({"call_dit": None}))


def test_the_table_has_the_whole_seam() -> None:
    ours = {name: value for name, value in vars(HostTrainer).items() if inspect.isfunction(value)}
    own = {name: seams.parameters(HostTrainer, name) for name in ours if name == "_build_dataset" or name[0] != "_"}
    assert own.items() <= seams.EXPECTED.items()


@pytest.mark.parametrize(
    ("torch_version", "expected"),
    [
        ("2.9.1", "pip install --no-deps 'torchvision==0.24.*'"),
        ("2.7.1+cu128", "'torchvision==0.22.*' --index-url https://download.pytorch.org/whl/cu128"),
        ("2.14.0+cpu", "'torchvision==0.29.*' --index-url https://download.pytorch.org/whl/cpu"),
        ("3.0.0", "pip install --no-deps torchvision"),
    ],
)
def test_torchvision_comes_as_the_build_of_torch(
    torch_version: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = tmp_path / f"torch-{torch_version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch_version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert pip_command([TORCHVISION]).endswith(expected)


def test_pip_gets_one_command() -> None:
    assert pip_command([]) == ""
    assert pip_command([Requirement("cv2", "opencv-python-headless")]) == "pip install opencv-python-headless"
    assert pip_command([Requirement("a", "a"), TORCHVISION]).startswith("pip install a && pip install --no-deps ")
