"""The exception tree: one base, one exit code, one line."""

from __future__ import annotations

import inspect

import pytest

from ganvas import errors
from ganvas.errors import GanvasError, MissingExtra, did_you_mean

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_every_error_is_a_ganvas_error_with_an_exit_code() -> None:
    assert len(TREE) >= 7
    for kind in TREE:
        assert issubclass(kind, GanvasError)
        assert 1 <= kind.exit_code <= 125 and kind.__doc__


def test_a_missing_extra_says_how_to_install_it() -> None:
    assert str(MissingExtra("films", "film")) == "films needs the 'film' extra: pip install 'ganvas[film]'"


@pytest.mark.parametrize(
    ("value", "answer"),
    [("stile", " (did you mean 'style'?)"), ("dcgn", " (did you mean 'dcgan'?)"), ("zzzz", ""), ("", "")],
)
def test_did_you_mean_offers_what_is_close_and_nothing_else(value: str, answer: str) -> None:
    assert did_you_mean(value, ["style", "dcgan"]) == answer
    assert did_you_mean(value, []) == ""
