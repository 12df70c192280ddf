"""Installing is whole or not at all, can be repeated, and keeps nothing that is not what was released. No network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
from musubi_checkouts import commit, make_checkout

from musubi_ext.commands import host as command
from musubi_ext.commands.parser import Parser
from musubi_ext.errors import UserError
from musubi_ext.hosts.musubi.discovery import COMMITS, cache_home, choice_file, find_host
from musubi_ext.hosts.musubi.install import install_from, install_tag


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No musubi-tuner anywhere: not importable, not named, an empty cache."""
    monkeypatch.setitem(sys.modules, "musubi_tuner", None)
    monkeypatch.delenv("MUSUBI_TUNER_HOME", raising=False)
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The address of a small repository with two tags, and their commits."""
    root = make_checkout(tmp_path_factory.mktemp("upstream") / "repository", "0.3.3")
    commits = {"v0.3.3": commit(root, "v0.3.3")}
    text = (root / "pyproject.toml").read_text()
    (root / "pyproject.toml").write_text(text.replace("0.3.3", "0.3.4"))
    return f"file://{root}", {**commits, "v0.3.4": commit(root, "v0.3.4")}


def run(*words: str) -> int:
    parser = Parser(prog="musubi-ext host")
    command.add_arguments(parser)
    args: argparse.Namespace = parser.parse_args(words)
    return command.run(args)


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_tag_is_cloned_and_used(release: tuple[str, dict[str, str]]) -> None:
    url, commits = release
    done = install_tag("v0.3.4", url=url, commits=commits)
    assert done.host == find_host()
    assert (find_host().source, find_host().version, find_host().commit) == ("cache", "0.3.4", commits["v0.3.4"])
    assert "\n" not in done.said
    assert contents(cache_home()) == ["host.json", "musubi-tuner-v0.3.4"]


def test_again_changes_nothing_and_a_tag_can_be_gone_back_to(release: tuple[str, dict[str, str]]) -> None:
    url, commits = release
    install_tag("v0.3.4", url=url, commits=commits)
    again = install_tag("v0.3.4", url="file:///gone", commits=commits)
    assert "was there already" in again.said
    install_tag("v0.3.3", url=url, commits=commits)
    assert find_host().version == "0.3.3"
    install_tag("v0.3.4", url="file:///gone", commits=commits)
    assert find_host().version == "0.3.4"


def test_another_commit_than_the_released_is_refused_and_removed(release: tuple[str, dict[str, str]]) -> None:
    url, commits = release
    with pytest.raises(UserError, match=rf"expected commit {COMMITS['v0.3.4']} of v0.3.4, found {commits['v0.3.4']}"):
        install_tag("v0.3.4", url=url)
    assert contents(cache_home()) == []


def test_a_changed_checkout_in_the_cache_is_refused(release: tuple[str, dict[str, str]]) -> None:
    url, commits = release
    install_tag("v0.3.4", url=url, commits=commits)
    folder = cache_home() / "musubi-tuner-v0.3.4"
    (folder / "new.txt").touch()
    commit(folder, "changed")
    with pytest.raises(UserError, match=f"remove {folder}"):
        install_tag("v0.3.4", url=url, commits=commits)


@pytest.mark.parametrize("tag", ["v0.2.9", "0.3.4", "main"])
def test_an_unknown_tag_is_refused(tag: str) -> None:
    with pytest.raises(UserError, match=r"expected one of v0\.3\.0, .*v0\.3\.4"):
        install_tag(tag, url="file:///gone")


def test_an_address_that_does_not_answer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file:///gone: cannot clone v0\.3\.4: .*--from DIR") as refused:
        install_tag("v0.3.4", url="file:///gone")
    assert "\n" not in str(refused.value)
    assert contents(cache_home()) == []


def test_without_git_there_is_one_sentence(
    release: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"git was not found: install it, or .*--from DIR"):
        install_tag("v0.3.4", url=release[0], commits=release[1])
    assert contents(cache_home()) == []


def test_a_cache_that_cannot_be_written_is_named(
    release: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUSUBI_EXT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write: .*MUSUBI_EXT_CACHE"):
        install_tag("v0.3.4", url=release[0], commits=release[1])
    with pytest.raises(UserError, match=r"cannot write: .*MUSUBI_EXT_CACHE"):
        install_from(make_checkout(tmp_path / "mine"))


def test_a_checkout_that_is_there_is_used_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_checkout(tmp_path / "mine", "0.3.1")
    monkeypatch.chdir(tmp_path)
    assert "would be used" in install_from(Path("mine"), dry_run=True).said
    assert not choice_file().exists()
    done = install_from(Path("mine"))
    assert done.host == find_host()
    assert find_host().root == tmp_path / "mine"
    assert install_from(Path("mine")) == done


@pytest.mark.parametrize(("version", "expected"), [("0.2.9", "found 0.2.9"), (None, "expected a checkout")])
def test_a_checkout_that_will_not_do_is_refused(version: str | None, expected: str, tmp_path: Path) -> None:
    root = make_checkout(tmp_path / "mine", version) if version else tmp_path / "gone"
    with pytest.raises(UserError, match=expected):
        install_from(root)
    assert not choice_file().exists()


def test_the_verbs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_checkout(tmp_path / "mine", "0.3.2")
    assert run("install", "--dry-run") == 0
    assert "would clone https://github.com/kohya-ss/musubi-tuner at v0.3.4" in capsys.readouterr().out
    assert run("install", "--from", str(root)) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{root}: musubi-tuner v0.3.2, commit unknown, is used"
    assert last.startswith("next: ")
    assert run("show") == 0
    assert f"path     {root}" in capsys.readouterr().out
    with pytest.raises(UserError, match="not allowed with"):
        run("install", "--from", str(root), "--tag", "v0.3.0")


def test_what_comes_before_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named, mine = make_checkout(tmp_path / "named"), make_checkout(tmp_path / "mine")
    monkeypatch.setenv("MUSUBI_TUNER_HOME", str(named))
    run("install", "--from", str(mine))
    assert f"note: MUSUBI_TUNER_HOME={named} comes first" in capsys.readouterr().out
