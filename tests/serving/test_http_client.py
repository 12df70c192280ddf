"""A whole job by each of the clients: ours, and curl as the README has it. Mistakes are sentences and end with 2."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_double import Adapters, JobsDouble, KeysDouble, served, worked
from test_uploads import png

from musubi_ext.cli import main
from musubi_ext.video import read_video
from serving.api import create_app
from serving.config import ServiceConfig
from serving.keys import SCOPES, Key


@pytest.fixture
def jobs(tmp_path: Path) -> JobsDouble:
    keys = KeysDouble(sesame=Key("1", "team-a", SCOPES))
    return JobsDouble(tmp_path, keys=keys)


@pytest.fixture
def address(jobs: JobsDouble, free_port: int, request: pytest.FixtureRequest) -> Iterator[str]:
    config = ServiceConfig.of(getattr(request, "param", {}))
    with served(create_app(jobs, config, adapters=Adapters()), free_port) as address:
        yield address


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png())
    return tmp_path / "a.png"


def test_submit_status_watch_get_cancel(
    address: str, jobs: JobsDouble, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("MUSUBI_EXT_URL", address)
    submit = ["client", "submit", "--prompt", "a car", "--first_frame", str(picture), "--seed", "4"]
    assert main([*submit, "--size", "64x64", "--last_frame", str(picture)]) == 0
    (made,) = jobs.records
    assert capsys.readouterr().out.startswith(f"{made} queued (0%, pocket-i2v+circle-rotate/2)")
    assert jobs.records[made].request["seed"] == 4
    assert main(["client", "get", made, "-o", str(tmp_path / "early.mp4")]) == 2
    assert "there is no video" in capsys.readouterr().err
    assert not (tmp_path / "early.mp4").exists()
    with worked(jobs):
        assert main(["client", "watch", made]) == 0
    assert "completed" in capsys.readouterr().out
    assert main(["client", "status", made, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "completed"
    for variant in ("video", "thumbnail", "filmstrip"):
        assert main(["client", "get", made, "--variant", variant, "-o", str(tmp_path / variant)]) == 0
    assert read_video(tmp_path / "video")[0].shape == (17, 64, 64, 3)
    assert main(submit) == 0
    second = list(jobs.records)[1]
    assert main(["client", "cancel", second]) == 0
    assert main(["client", "watch", second]) == 1
    assert "cancelled on request" in capsys.readouterr().out
    assert main(["client", "cancel", second, "--delete"]) == 0
    assert list(jobs.records) == [made]


def test_submit_with_output_waits_for_the_file(address: str, jobs: JobsDouble, picture: Path, tmp_path: Path) -> None:
    words = ["client", "submit", "--url", address, "--prompt", "a car", "--first_frame", str(picture)]
    with worked(jobs):
        assert main([*words, "-o", str(tmp_path / "o.mp4")]) == 0
    assert read_video(tmp_path / "o.mp4")[0].shape == (17, 64, 64, 3)


@pytest.mark.parametrize("address", [{"keys": {"required": True}}], indirect=True)
def test_the_key_comes_from_the_environment(
    address: str, jobs: JobsDouble, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["client", "submit", "--url", address, "--prompt", "a car", "--first_frame", str(picture)]
    monkeypatch.delenv("MUSUBI_EXT_KEY", raising=False)
    assert main(words) == 2
    assert "(set $MUSUBI_EXT_KEY)" in capsys.readouterr().err
    monkeypatch.setenv("MUSUBI_EXT_KEY", "sesame")
    assert main(words) == 0
    assert [job.owner for job in jobs.records.values()] == ["team-a"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["status", "../../x"], "expected video_ and 24 hexadecimal digits"),
        (["submit", "--prompt", "a", "--first_frame", "nowhere.png"], "no such file"),
        (["get", "video_" + "0" * 24, "-o", "nowhere/o.mp4"], "its folder does not exist"),
        (["status", "video_" + "0" * 24, "--url", "localhost:3000"], "expected http://HOST:PORT"),
        (["status", "video_" + "0" * 24, "--url", "http://127.0.0.1:9"], "is the service running?"),
    ],
)
def test_a_mistake_is_a_sentence(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", *words]) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert out == ""


def test_curl_does_a_whole_job(address: str, jobs: JobsDouble, picture: Path, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")

    def ask(*words: str) -> str:
        return subprocess.run([curl, "-sSf", *words], check=True, capture_output=True, text=True).stdout

    sent = ask("-F", "prompt=camera circles", "-F", f"first_frame=@{picture}", f"{address}/v1/videos")
    made = json.loads(sent)["id"]
    with worked(jobs):
        assert "event: completed" in ask("-N", f"{address}/v1/videos/{made}/events")
    ask("-o", str(tmp_path / "o.mp4"), f"{address}/v1/videos/{made}/content")
    assert len(read_video(tmp_path / "o.mp4")[0]) == 17
