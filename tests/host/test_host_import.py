"""The real musubi-tuner comes in as a library: the program around it stays as it was, warnings as errors included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from musubi_ext.hosts.musubi.discovery import COMMITS, find_host, git
from musubi_ext.hosts.musubi.importing import import_host, import_host_module
from musubi_ext.hosts.musubi.install import install_tag

FACTS = """
import json, logging, sys
import torch
kept = [torch.cuda.current_device, logging.root.level, list(logging.root.handlers), list(sys.path)]
from musubi_ext.hosts.musubi.importing import import_host, import_host_module
host = import_host()
import_host_module("musubi_tuner.networks.lora_wan")
import_host_module("musubi_tuner.wan_cache_latents")
import torchvision, torchvision.ops, torchvision.transforms.v2.functional
print(json.dumps({
    "again": import_host() is host,
    "kept": [torch.cuda.current_device, logging.root.level, logging.root.handlers, sys.path[: len(kept[3])]] == kept,
    "operators": hasattr(torch.ops.torchvision, "nms") is torchvision.extension._has_ops(),
    "added": [path for path in sys.path[len(kept[3]) :] if not path.endswith("host-packages")],
}))
"""


def test_a_program_of_its_own_stays_as_it_was() -> None:
    if not os.environ.get("MUSUBI_TUNER_HOME"):
        pytest.skip("MUSUBI_TUNER_HOME is not set: no musubi-tuner checkout to test with")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FACTS], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["again"], facts["kept"], facts["operators"], len(facts["added"])) == (True, True, True, 1)
    assert done.stderr == ""


def test_it_is_the_one_that_was_named(host: ModuleType) -> None:
    found = find_host()
    assert found.source == "MUSUBI_TUNER_HOME"
    assert host.__file__ == str(found.import_folder / "musubi_tuner" / "wan_train_network.py")
    assert host is import_host()
    if found.commit:
        assert found.is_released is (found.commit == COMMITS[f"v{found.version}"])


def test_without_cuda_the_text_encoder_s_own_device_is_the_cpu(host: ModuleType) -> None:
    defaults = import_host_module("musubi_tuner.wan.modules.t5").T5EncoderModel.__init__.__defaults__
    if torch.cuda.is_available():
        assert torch.cuda.current_device() in defaults
    else:
        assert torch.device("cpu") in defaults


def test_a_clone_of_the_release_is_what_the_table_says(
    host: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = find_host()
    if git("rev-parse", "--verify", "--quiet", f"v{found.version}", folder=found.root).returncode:
        pytest.skip("MUSUBI_TUNER_HOME is no clone with the tag of its version")
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path))
    done = install_tag(f"v{found.version}", url=f"file://{found.root}")
    assert done.host is not None
    assert done.host.is_released
    assert done.host.root == tmp_path / f"musubi-tuner-v{found.version}"
