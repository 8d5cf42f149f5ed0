"""Errors say four things, survive a pickle, and are what they replace."""

import pickle

import pytest

from raft_core import errors
from raft_core.errors import ConfigError, IntegrityError, RaftError


def test_the_four_parts_are_lines() -> None:
    error = ConfigError("what", got=1, expected=0, hint="that")
    assert str(error) == "what\n  got: 1\n  expected: 0\n  try: that"
    assert str(IntegrityError("what")) == "what"


@pytest.mark.parametrize("kind", RaftError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_survives_a_pickle(kind: type[RaftError]) -> None:
    error = kind("what", got="g", expected=["e"], hint="d")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_the_tree_in_the_docstring_is_whole() -> None:
    assert errors.__doc__ is not None
    for kind in RaftError.__subclasses__():
        assert f"{kind.__name__} ({kind.__bases__[1].__name__})" in errors.__doc__
