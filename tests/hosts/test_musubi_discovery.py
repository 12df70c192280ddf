"""musubi-tuner is looked for in three places, in order; what is found there is right, or refused in one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from musubi_checkouts import commit, git, make_checkout

from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi import discovery
from musubi_ext.hosts.musubi.discovery import (
    COMMITS,
    PINNED,
    SUPPORTED,
    cache_home,
    choice_file,
    find_host,
    head_commit,
)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No musubi-tuner anywhere: not importable, not named, an empty cache."""
    monkeypatch.setitem(sys.modules, "musubi_tuner", None)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "musubi_tuner").is_dir()])
    monkeypatch.delenv("MUSUBI_TUNER_HOME", raising=False)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "cache"))


def importable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delitem(sys.modules, "musubi_tuner")
    monkeypatch.syspath_prepend(folder)


def choose(root: Path) -> None:
    choice_file().parent.mkdir(exist_ok=True)
    choice_file().write_text(json.dumps({"checkout": str(root)}))


def refusal() -> str:
    with pytest.raises(UserError) as refused:
        find_host()
    assert len(refused.value.problems) == 1
    return refused.value.problems[0]


def test_nowhere_names_both_remedies() -> None:
    said = refusal()
    assert "musubi-ext host install" in said
    assert "MUSUBI_TUNER_HOME" in said


def test_three_places_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    roots = {name: make_checkout(tmp_path / name, version) for name, version in zip("abc", SUPPORTED, strict=False)}
    choose(roots["a"])
    host = find_host()
    assert (host.root, host.version, host.source) == (roots["a"], "0.3.0", "cache")
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(roots["b"]))
    host = find_host()
    assert (host.root, host.version, host.source) == (roots["b"], "0.3.1", "MUSUBI_TUNER_HOME")
    importable(monkeypatch, roots["c"] / "src")
    host = find_host()
    assert (host.root, host.version, host.source) == (roots["c"], "0.3.2", "importable")


def test_an_imported_checkout_still_comes_from_where_it_was_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_checkout(tmp_path / "home")
    importable(monkeypatch, root / "src")
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(root))
    assert find_host().source == "MUSUBI_TUNER_HOME"
    monkeypatch.delenv("MUSUBI_TUNER_HOME")
    choose(root)
    assert find_host().source == "cache"


def test_a_folder_of_that_name_is_not_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "musubi_tuner").mkdir()
    importable(monkeypatch, tmp_path)
    assert "was not found" in refusal()


@pytest.mark.parametrize("version", ["0.2.9", "0.3.5", "0.4.0", "0.3.4.post1"])
def test_a_version_out_of_range_is_refused(version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(make_checkout(tmp_path / "home", version)))
    said = refusal()
    assert f"MUSUBI_TUNER_HOME={tmp_path / 'home'}" in said
    assert f"expected musubi-tuner v0.3.0 to v0.3.4, found {version} " in said


def test_the_remedy_for_an_importable_one_is_not_to_install_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    importable(monkeypatch, make_checkout(tmp_path / "old", "0.2.9") / "src")
    assert "uninstall it or take it off PYTHONPATH" in refusal()


def test_a_named_place_without_it_is_refused_and_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    choose(make_checkout(tmp_path / "good"))
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(tmp_path))
    assert f"MUSUBI_TUNER_HOME={tmp_path}: expected a checkout" in refusal()
    monkeypatch.setenv("MUSUBI_TUNER_HOME", "")  # as if unset
    assert find_host().source == "cache"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"checkout": 3}', "nonsense"])
def test_a_damaged_choice_is_named(text: str) -> None:
    choice_file().parent.mkdir()
    choice_file().write_text(text)
    assert str(choice_file()) in refusal()


def test_a_chosen_checkout_that_is_gone_is_named(tmp_path: Path) -> None:
    choose(tmp_path / "gone")
    assert f"{tmp_path / 'gone'}: expected a checkout" in refusal()


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "project = 3\n", "[project"])
def test_a_checkout_without_a_version_is_named(text: str, tmp_path: Path) -> None:
    choose(make_checkout(tmp_path / "home"))
    (tmp_path / "home" / "pyproject.toml").write_text(text)
    assert f"{tmp_path / 'home' / 'pyproject.toml'}: expected a version" in refusal()


def test_installed_by_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_checkout(tmp_path)
    site = tmp_path / "src"
    (tmp_path / "pyproject.toml").unlink()
    importable(monkeypatch, site)
    assert "a record of pip" in refusal()
    record = site / "musubi_tuner-0.3.3.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: musubi-tuner\nVersion: 0.3.3\n")
    host = find_host()
    assert (host.root, host.version, host.commit, host.source) == (site, "0.3.3", None, "importable")
    assert host.import_folder == site
    direct = {"url": "https://example.org", "vcs_info": {"vcs": "git", "commit_id": COMMITS["v0.3.3"]}}
    (record / "direct_url.json").write_text(json.dumps(direct))
    assert find_host().is_released is True


def test_the_commit_is_git_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "home")
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(root))
    assert find_host().commit is None
    assert find_host().is_released is None
    head = commit(root, PINNED)
    assert find_host().commit == head
    assert find_host().is_released is False
    monkeypatch.setitem(discovery.COMMITS, PINNED, head)
    assert find_host().is_released is True
    monkeypatch.setenv("PATH", "")  # no git
    assert find_host().commit is None


def test_a_repository_around_the_checkout_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "home")
    other = commit(root, "outer")
    (root / ".git").rename(tmp_path / ".git")
    assert git(root, "rev-parse", "HEAD") == other
    assert head_commit(root) is None
    (root / ".git").write_text("gitdir: /nowhere")
    assert head_commit(root) is None
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as inside a hook
    assert head_commit(root) is None


def test_the_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_home() == tmp_path / "cache"
    monkeypatch.delenv("MUSUBI_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "musubi-ext"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_home() == tmp_path / "me" / ".cache" / "musubi-ext"


def test_the_table_of_commits() -> None:
    assert [f"v{version}" for version in SUPPORTED] == list(COMMITS)
    assert list(COMMITS)[-1] == PINNED
    assert all(re.fullmatch(r"[0-9a-f]{40}", sha) for sha in COMMITS.values())


def test_discovery_loads_no_framework() -> None:
    code = """
import sys, musubi_ext.hosts.musubi.discovery, musubi_ext.hosts.musubi.importing, musubi_ext.hosts.musubi.install
import musubi_ext.commands.host, musubi_ext.commands.doctor
print(*({"torch", "torchvision", "musubi_tuner", "rich", "safetensors"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
