"""OpenMP's threads sleep early: a user's own setting wins, and no result depends on it."""

import os
import subprocess
import sys

import pytest

from flows.process import environment

pytestmark = pytest.mark.slow

CODE = """
import hashlib, torch
torch.set_num_threads(2)
torch.manual_seed(0)
a = torch.randn(300, 300, requires_grad=True)
torch.softmax(a @ a, 1).pow(2).sum().backward()
print(hashlib.sha256(a.grad.numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize(
    ("user", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_a_users_own_setting_wins(user: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(user))
    environment.set_defaults()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_bytes_are_the_same() -> None:
    settings: list[dict[str, str]] = [{}, {"GOMP_SPINCOUNT": "1000"}, {"OMP_WAIT_POLICY": "PASSIVE"}]
    plain = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-P", "-c", CODE]
    told = {subprocess.check_output(command, env={**plain, **more}, text=True) for more in settings}
    assert len(told) == 1
