"""What may be a model's name, an alias, a run id or a file's name, decided before any of them becomes a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musubi_ext.adapters.pair import AdapterPair
from musubi_ext.errors import UserError
from musubi_ext.registry.model import load_pair, register_pair
from musubi_ext.registry.names import (
    ModelReference,
    check_alias,
    check_digest,
    check_file_name,
    check_name,
    check_run_id,
    parse_reference,
)
from musubi_ext.registry.watch import AliasWatcher

LOOK_ALIKES = ["сhampion", "ﬁnal", "ｃircle", "circle\u2044x", "a\u2024\u2024b", "circle\u200b", "１", "Å", "a\u202eb"]
BAD = ["", "..", "a/b", "../a", "a\n", "a b", "-a", ".a", "a..b", "a" * 10_000, "a\0", "ä", "a\\b", "%2e%2e", "a\r"]
CHECKS = (check_name, check_alias, check_run_id, parse_reference, check_digest)

# Any text, and text that is nearly a name.
hostile = st.one_of(
    st.text(max_size=60),
    st.text("ab./\\:@%\0\n \u2024\u0430", max_size=12),
    st.builds(
        lambda start, bad, end: start + bad + end, st.just("orbit"), st.sampled_from(BAD[1:]), st.text("ab", max_size=2)
    ),
)


@pytest.mark.parametrize("name", BAD + LOOK_ALIKES)
def test_bad_names_are_refused_in_one_short_line(name: str) -> None:
    for check in CHECKS:
        with pytest.raises(UserError) as told:
            check(name)
        assert len(str(told.value)) < 250
        assert str(told.value).isprintable()


@pytest.mark.parametrize("name", [*BAD, *LOOK_ALIKES, "a/b.safetensors", "../a.safetensors", "a.pkl", ".safetensors"])
def test_bad_file_names_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        check_file_name(name)


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a\n", "a\0", "ä", "a" * 10_000, "-a", ".a", *LOOK_ALIKES])
def test_no_ending_makes_a_bad_file_name_good(name: str) -> None:
    for ending in (".safetensors", ".pair.json"):
        with pytest.raises(UserError):
            check_file_name(name + ending)


@pytest.mark.parametrize("alias", ["latest", "v3", "V12"])
def test_aliases_that_mlflow_reserves_are_refused(alias: str) -> None:
    with pytest.raises(UserError):
        check_alias(alias)


def test_references_are_read_both_ways() -> None:
    assert parse_reference("models:/circle-rotate@champion") == ModelReference("circle-rotate", alias="champion")
    assert parse_reference("circle.rotate/12") == ModelReference("circle.rotate", version=12)
    assert str(parse_reference("a/3")) == "models:/a/3"


@given(st.text(max_size=40))
def test_whatever_is_accepted_is_what_was_given(text: str) -> None:
    try:
        reference = parse_reference(text)
    except UserError:
        return
    assert str(reference).removeprefix("models:/") == text.removeprefix("models:/")
    assert "/" not in reference.name


@given(hostile)
def test_what_passes_as_a_file_name_stays_in_its_folder(text: str) -> None:
    for name in (text, f"{text}.safetensors", f"{text}.pair.json"):
        try:
            check_file_name(name)
        except UserError:
            continue
        path = Path("/folder") / name
        assert path.parent == Path("/folder")
        assert path.resolve() == path
        assert name.isascii()
        assert name.isprintable()


def _names(text: str) -> bool:
    """Whether `text` is a name, so that a call with it goes on."""
    try:
        check_name(text)
    except UserError:
        return False
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hostile)
def test_hostile_names_are_refused_before_anything_is_made(pair: AdapterPair, tmp_path: Path, text: str) -> None:
    # The folder of the store does not exist: whatever got as far as a store or a path would make something.
    uri = f"sqlite:///{tmp_path / 'absent' / 'mlflow.db'}"
    before = sorted(tmp_path.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: AliasWatcher("orbit", f"{text}/", uri=uri),
        lambda: load_pair(f"models:/{text}/x", uri=uri),
        lambda: load_pair(f"models:/orbit@{text}.", uri=uri),
        lambda: register_pair(pair, "orbit", run_id=f"{text}g", uri=uri),
    ]
    if not _names(text):
        calls.append(lambda: register_pair(pair, text, uri=uri))
        calls.append(lambda: AliasWatcher(text, "champion", uri=uri))
        calls.append(lambda: load_pair(f"models:/{text}/1", uri=uri))
    for call in calls:
        with pytest.raises(UserError):
            call()
    assert sorted(tmp_path.rglob("*")) == before
