"""Plugins of installed packages: found by their entry point, checked, and refused in words."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from raft_core import imports, plugins
from raft_core.imports import code_digest
from raft_core.plugins import Registry
from raft_core.rewards.base import RewardConfig, RewardFn, reward_identity
from raft_core.selection.base import Selector
from raft_core.selection.best_of_k import BestOfK
from raft_core.selection.registry import SELECTORS

WORST = """
from typing import Literal

from raft_core.selection.base import Selector

from .{helper} import NAME

class Worst(Selector):
    type: Literal["worst"] = "worst"

    def select(self, candidates, samples_per_prompt):
        return None
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("a", "worst = a.rule:Worst", …)``: a package ``a`` of version 1.5 with these entry points."""
    before = set(sys.modules)

    def write(package: str, *offers: str, code: str = WORST.format(helper="helper")) -> None:
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "helper.py").write_text("NAME = 1\n")
        (tmp_path / package / "rule.py").write_text(code)
        info = tmp_path / f"{package}-1.5.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text("\n".join(["[raft.selectors]", *offers]))
        plugins._offered.cache_clear()
        code_digest.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    plugins._offered.cache_clear()
    code_digest.cache_clear()
    for name in sys.modules.keys() - before:
        del sys.modules[name]


def configure(plain: dict[str, object]) -> Selector:
    selector: Selector = TypeAdapter(SELECTORS.union()).validate_python(plain)
    return selector


def refusal(plain: dict[str, object]) -> str:
    with pytest.raises(ValidationError) as caught:
        configure(plain)
    return str(caught.value)


def test_ours_come_without_a_package() -> None:
    assert list(SELECTORS.classes()) == list(SELECTORS.own)
    assert configure({"type": "best_of_k"}) == BestOfK()
    assert SELECTORS.provenance(BestOfK()) is None


def test_one_of_a_package_is_configured_like_ours_and_its_code_is_named(install: Install, tmp_path: Path) -> None:
    install("pack_a", "worst = pack_a.rule:Worst")
    found = configure({"type": "worst"})
    came = SELECTORS.provenance(found)
    assert came is not None
    assert (came.package, came.module) == ("pack_a 1.5", "pack_a.rule")
    (tmp_path / "pack_a" / "helper.py").write_text("NAME = 2\n")
    code_digest.cache_clear()
    changed = SELECTORS.provenance(found)
    assert changed is not None
    assert changed.digest != came.digest, "what its module imports, relatively too, is a part of it"
    assert "extra" in refusal({"type": "worst", "fraction": 1})


def test_one_that_its_package_hands_on_is_named_by_where_it_is_written(install: Install, tmp_path: Path) -> None:
    install("pack_g", "worst = pack_g:Worst", "broken = my-pack.rule:X")
    (tmp_path / "pack_g" / "__init__.py").write_text("from .rule import Worst\n")
    came = SELECTORS.provenance(configure({"type": "worst"}))
    assert came is not None
    assert (came.package, came.module) == ("pack_g 1.5", "pack_g.rule")
    assert SELECTORS.provenance(BestOfK()) is None


def test_ours_cannot_be_replaced(install: Install) -> None:
    install("pack_b", "best_of_k = pack_b.rule:Worst")
    assert type(configure({"type": "best_of_k"})) is BestOfK


@pytest.mark.parametrize(
    ("offer", "code", "why"),
    [
        ("worst = pack_c.rule:Worst", "import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("worst = pack_c.rule:Worst", "raise RuntimeError('not today')", "RuntimeError: not today"),
        ("worst = pack_c.rule:Worst", "Worst = 3", "is not a subclass of raft_core.selection.base.Selector"),
        ("other = pack_c.rule:Worst", WORST.format(helper="helper"), "its entry point is called 'other'"),
        (
            "worst = pack_c.rule:Worst",
            WORST.format(helper="helper").replace("def select", "def choose"),
            "define select",
        ),
        (
            "worst = pack_c.rule:Worst",
            WORST.format(helper="helper").replace('Literal["worst"] =', "str ="),
            "must be annotated as Literal['worst']",
        ),
        ("worst = pack_c.rule:Worst", "raise SystemExit('bye')", "SystemExit: bye"),
        ("worst = pack_c.rule:Nothing", WORST.format(helper="helper"), "Nothing"),
    ],
)
def test_one_that_cannot_be_used_leaves_the_others_alone(install: Install, offer: str, code: str, why: str) -> None:
    install("pack_c", offer, code=code)
    assert configure({"type": "best_of_k"}) == BestOfK()
    message = refusal({"type": offer.partition(" ")[0]})
    assert why in message
    assert "pack_c 1.5" in message


LIST = WORST.format(helper="helper").replace('"worst"\n', '"worst"\n    words: list[str] = []\n')
PATH = WORST.format(helper="helper").replace('"worst"\n', '"worst"\n    file: "Path | None" = None\n')
UNREADABLE = b"# -*- coding: ascii -*-\nNAME = '\xff'\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (LIST, "setting words is declared with list"),
        (PATH.replace("from typing", "from pathlib import Path\nfrom typing", 1), "setting file is declared with P"),
    ],
)
def test_settings_that_a_configuration_cannot_hold_are_refused(install: Install, code: str, why: str) -> None:
    install("pack_h", "worst = pack_h.rule:Worst", code=code)
    assert why in refusal({"type": "worst"})


def test_a_type_is_a_plain_name(install: Install) -> None:
    code = WORST.format(helper="helper").replace('"worst"', '"a/b"')
    install("pack_i", "a/b = pack_i.rule:Worst", code=code)
    assert "other characters than letters" in refusal({"type": "a/b"})


def test_code_that_cannot_be_read_is_refused_and_not_imported(install: Install, tmp_path: Path) -> None:
    install(
        "pack_j",
        "worst = pack_j.rule:Worst",
        code=WORST.format(helper="helper") + "\ndef late():\n    from . import odd\n",
    )
    (tmp_path / "pack_j" / "odd.py").write_bytes(UNREADABLE)
    assert "the source of pack_j.odd is not Python" in refusal({"type": "worst"})
    (tmp_path / "pack_j" / "odd.py").write_text("raise SystemExit('imported')\n")
    code_digest.cache_clear()
    assert configure({"type": "worst"}).type == "worst"


def test_what_runs_when_its_package_is_imported_is_a_part_of_its_code(install: Install, tmp_path: Path) -> None:
    install("pack_k", "worst = pack_k.rule:Worst")
    before = SELECTORS.provenance(configure({"type": "worst"}))
    (tmp_path / "pack_k" / "__init__.py").write_text("SIGN = -1\n")
    code_digest.cache_clear()
    after = SELECTORS.provenance(configure({"type": "worst"}))
    assert before is not None
    assert after is not None
    assert before.digest != after.digest


def test_the_identity_of_a_reward_covers_what_raft_lends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "pack_l.rule": b"from raft_core.rewards.base import texts",
        "raft_core.rewards.base": b"x = 1",
        "pack_l": b"",
    }

    class Mine(RewardConfig):
        type: str = "mine"

        def load(self, *, weights: bool = True) -> RewardFn:
            raise NotImplementedError

    Mine.__module__ = "pack_l.rule"
    monkeypatch.setattr(imports, "source_of", sources.get)
    code_digest.cache_clear()
    before = reward_identity(Mine())
    sources["raft_core.rewards.base"] = b"x = 2"
    code_digest.cache_clear()
    assert reward_identity(Mine()) != before
    code_digest.cache_clear()


def test_of_two_packages_with_one_name_none_is_taken(install: Install) -> None:
    for package in ("pack_d", "pack_e"):
        install(package, f"worst = {package}.rule:Worst")
    message = refusal({"type": "worst"})
    assert "pack_d 1.5, pack_e 1.5" in message


def test_a_registry_of_another_kind_sees_nothing_of_it(install: Install) -> None:
    install("pack_f", "worst = pack_f.rule:Worst")
    assert Registry("raft.others", Selector, {}).classes() == {}
