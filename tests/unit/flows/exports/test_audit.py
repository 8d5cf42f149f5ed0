"""The auditor's page: whole, harmless, and true to the records."""

import base64
import hashlib
import re
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from flows.exports.audit import audit_page
from flows.exports.audit_data import _by_hand
from flows.exports.dossier import Dossier, open_dossier
from flows.exports.markup import MAX_CHARS, environment, preformatted, verbatim
from raft_core.records.run import BASE, Run, read_chain

VOID = {"meta", "br", "img", "line", "rect", "circle", "polyline", "polygon", "link", "input", "hr"}


class Elements(HTMLParser):
    """Every element and attribute of a page; raises where tags are not nested as they should be."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(dossier: Dossier) -> str:
    return audit_page(dossier)


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    return Elements(page)


def test_nothing_of_a_model_becomes_an_element(elements: Elements) -> None:
    assert set(elements.tags).isdisjoint(
        {"script", "img", "iframe", "object", "embed", "form", "input", "link", "b:script"}
    )
    assert elements.tags.count("style") == 1
    names = {name for name, _ in elements.attributes}
    assert not any(name.startswith("on") for name in names)
    assert names.isdisjoint({"src", "srcset", "style", "action", "formaction", "xlink:href", "background"})
    assert {value for name, value in elements.attributes if name == "href"} <= {
        f"#{value}" for name, value in elements.attributes if name == "id"
    }


def test_hostile_texts_are_shown_as_they_are(elements: Elements) -> None:
    assert elements.text.count("<script>document.title='owned'</script>") > 3
    assert "</style></pre><img src=x onerror=alert(1)>" in elements.text
    assert "{{ 7 * 7 }} {% raise %}" in elements.text
    assert "&lt; &#60;script&#62;" in elements.text
    assert "49" not in re.findall(r"\{\{.*?\}\}", elements.text)


def test_no_control_or_direction_character_is_left(page: str, elements: Elements) -> None:
    for text in (page, elements.text):
        odd = {c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n"}
        assert odd == set()
    assert "\\x1b" in elements.text
    assert "\\x202e" in elements.text


def test_the_policy_of_the_page_allows_its_own_style_and_nothing_else(page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (css,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r"url\(|@import|expression\(", css)
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<body>")


def test_secrets_are_not_on_the_page(page: str) -> None:
    assert "hunter2" not in page
    assert "abcdef" not in page
    assert "[redacted]" in page


def test_it_tells_what_the_records_say(elements: Elements, exported_run: Run) -> None:
    text = elements.text
    chain = read_chain(exported_run)
    for commit in chain:
        assert commit.digest in text
        assert all(digest in text for digest in commit.outputs.values())
    assert "3 commits and" in text
    assert "0.07 → 0.68" in text.replace("0.070", "0.07").replace("0.680", "0.68")
    assert "inside" in text
    assert "ada <ada@example.org>" in text
    assert "grace" in text
    assert "worst slice" in text
    assert "0.500 [0.250, 0.750]" in text
    assert ">= 0.125" in text
    assert "raft-other" not in text
    assert "<i>films</i>" in text


def test_the_same_records_give_the_same_bytes(dossier: Dossier, page: str) -> None:
    assert audit_page(dossier) == page
    again = open_dossier(dossier.run, 1, entries=dossier.entries, resolve=Path)
    assert audit_page(again) == page


def test_it_is_one_small_file(page: str) -> None:
    assert len(page.encode()) < 150_000


def test_what_does_not_verify_is_said_at_the_top(exported_run: Run) -> None:
    dossier = open_dossier(exported_run, 1, resolve=lambda source: exported_run.path / "report-of-nobody")
    assert dossier.verification.ok
    problem = dossier.verification.problems
    found = open_dossier(exported_run, 1, resolve=lambda source: exported_run.path / "config.yaml")
    assert problem == ()
    assert not found.verification.ok
    page = audit_page(found)
    assert "does not verify" in page[: page.index('class="tiles"')]


def test_the_base_has_a_page_too(exported_run: Run) -> None:
    page = audit_page(open_dossier(exported_run, BASE, resolve=Path))
    assert "the initial policy" in Elements(page).text


def test_a_clone_without_tables_weights_and_events_still_has_a_page(dossier: Dossier, tmp_path: Path) -> None:
    import shutil

    source = dossier.run.path
    in_git = (source.rglob(name) for name in ("config.yaml", "commit.json", "report.json", "finetune.json"))
    for file in (file for found in in_git for file in found):
        target = tmp_path / "made" / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        if file.name == "commit.json":
            for name in ("tables", "policy"):
                (target.parent / f"{name}.dvc").write_text("outs: []\n")
    clone = replace(dossier.run, path=tmp_path / "made")
    elements = Elements(audit_page(open_dossier(clone, 1, resolve=lambda source: None)))
    assert "could not be seen" in elements.text
    assert dossier.link.commit in elements.text


def test_the_commands_for_a_check_by_hand_print_the_digests(dossier: Dossier) -> None:
    workspace = dossier.run.path.parent.parent
    lines = [line for line in _by_hand(dossier).splitlines() if line]
    commands, expected = lines[0::2], [line.removeprefix("# ") for line in lines[1::2]]
    assert len(commands) == 2
    for command, digest in zip(commands, expected, strict=True):
        done = subprocess.run(["bash", "-c", command], cwd=workspace, capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == digest


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_any_text_survives_as_text(text: str) -> None:
    for shown in (verbatim(text), preformatted(text), environment().from_string("<p>{{ text }}</p>").render(text=text)):
        page = Elements(str(shown))
        assert set(page.tags) <= {"bdi", "i", "p"}
        assert str(shown).encode("utf-8").decode() == str(shown)
    visible = "".join(c for c in text if c.isalnum())[: MAX_CHARS // 2]
    assert all(c in Elements(str(verbatim(text))).text for c in visible[:50])


def test_only_our_own_markup_passes_a_template() -> None:
    template = environment().from_string("{{ a }}|{{ b }}|{{ c }}")
    assert template.render(a=Markup("<b>"), b="<b>\x1b", c=3) == "<b>|&lt;b&gt;\\x1b|3"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert "10 more characters" in verbatim("x" * (MAX_CHARS + 10))


def test_the_command_writes_the_page(
    dossier: Dossier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raft: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setenv("RAFT_WORKSPACE", str(dossier.run.path.parent.parent))
    code, out, err = raft("export", "html", "made@1", "--out", str(tmp_path / "audit.html"))
    assert (code, err) == (0, "")
    assert "audit.html" in out
    assert (tmp_path / "audit.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert raft("export", "html", "nobody")[0] == 2
