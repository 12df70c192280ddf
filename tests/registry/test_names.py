"""What may be a model's name, an alias or a run id, decided before any of them becomes a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musubi_ext.errors import UserError
from musubi_ext.registry.names import ModelReference, check_alias, check_name, check_run_id, parse_reference

BAD = ["", "..", "a/b", "../a", "a\n", "a b", "-a", ".a", "a..b", "a" * 10_000, "a\0", "ä"]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_in_one_short_line(name: str) -> None:
    for check in (check_name, check_alias, check_run_id, parse_reference):
        with pytest.raises(UserError) as told:
            check(name)
        assert len(str(told.value)) < 250
        assert "\n" not in str(told.value)


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
