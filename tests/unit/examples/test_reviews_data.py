"""The splits of the reviews example, on an archive of made-up sentences in the real one's form."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from raft_core.errors import IntegrityError
from raft_core.examples import reviews_data
from raft_core.examples.packages import PACKAGES
from raft_core.examples.reviews_data import PROMPT_SPLITS, START, build_data, prompt_of, split_sentences
from raft_core.examples.reviews_sentences import FILES, INNER_ARCHIVE, Sentence, clean, is_fit, read_sentences

NAMES = ("film", "movie", "comedy", "drama", "sequel", "thriller", "western", "romance", "musical", "fable")
VERBS = ("finds", "loses", "seeks", "meets", "builds", "breaks", "paints", "follows", "answers", "forgets")
ENDS = ("a quiet kind of hope", "its own slow and patient rhythm", "very little that is worth the ticket")


def _sentences() -> list[str]:
    return [
        f"{opening} {name} {verb} {end} number {verb} in the {name}."
        for opening in ("This", "That", "Each", "Every", "Some")
        for name in NAMES
        for verb in VERBS
        for end in ENDS
    ]


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _sdist(folder: Path, movies: list[str]) -> Path:
    rows = {
        "movies": movies,
        "products": ["works well enough", "broke on the second day"],
        "editorials": ["Taxes rose."],
    }
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for domain, texts in rows.items():
            lines = [f"{number}\t{(-1) ** number * 1.5}\t{text}\n" for number, text in enumerate(texts, start=1)]
            _add(archive, FILES[domain], "".join(lines).encode())
    path = folder / PACKAGES["ratings"].file
    with tarfile.open(path, "w:gz") as outer:
        _add(outer, INNER_ARCHIVE, inner.getvalue())
    return path


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Lovely &amp;amp; Amazing", "Lovely & Amazing"),
        ("the ''new'' one   even more", 'the "new" one - even more'),
        ("full of vitality..", "full of vitality."),
        ("but then ...", "but then ..."),
        ("<i>odd</i>  tag", "odd tag"),
    ],
)
def test_markup_is_cleaned(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("A warm and funny film that never loses its way.", True),
        ("A warm and funny film that has a murderer in it.", False),
        ("A warm film. It never loses its way in the woods.", False),
        ("Too short to be used.", False),
        ("a film that begins in the middle of a sentence.", False),
        ("A film that (for once) is about nothing at all really.", False),
        ("The grape harvest was a warm and rewarding asset in the film.", True),
    ],
)
def test_only_whole_plain_harmless_sentences_are_fit(text: str, fit: bool) -> None:
    assert is_fit(Sentence(text, 0.0, "movies 1")) is fit


def test_a_prompt_is_the_beginning_of_its_sentence() -> None:
    for text in _sentences()[:200]:
        prompt = prompt_of(Sentence(text, 0.0, ""))
        assert (START + text).startswith(prompt)
        assert 4 <= len(prompt.removeprefix(START).split()) <= 6
        assert not set(prompt) & set(".!?")


def test_duplicates_go_and_order_depends_on_texts_alone(tmp_path: Path) -> None:
    texts = _sentences()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = read_sentences(_sdist(tmp_path / "a", texts))
    two = read_sentences(_sdist(tmp_path / "b", [*reversed(texts), texts[0].upper()]))
    assert [s.text for s in one["movies"]] == [s.text for s in two["movies"]]
    assert len(one["movies"]) == len(texts)
    assert [s.text for s in one["movies"]] != texts


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"line 2 of movies .* 4 columns"):
        read_sentences(_sdist(tmp_path, ["fine", "one\tmore"]))


def test_splits_are_disjoint_and_prompts_distinct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews_data, "PROMPT_SPLITS", {"train": 60, "held_out": 30, "promotion": 30})
    for name, count in (("NUM_SFT", 40), ("NUM_PERPLEXITY", 20), ("NUM_REWARD_HELD_OUT", 100), ("NUM_REWARD", 600)):
        monkeypatch.setattr(reviews_data, name, count)
    domains = read_sentences(_sdist(tmp_path, _sentences()))
    splits = split_sentences(domains)
    sizes = {name: len(rows) for name, rows in splits.items()}
    assert sizes["ratings.reward"] == 600
    assert sizes["ratings.gold"] == 1500 - 60 - 30 - 30 - 40 - 20 - 100 - 600 + 3
    sources = [sentence.source for rows in splits.values() for sentence in rows]
    assert len(sources) == len(set(sources)) == 1503
    prompts = [prompt_of(s).lower() for name in PROMPT_SPLITS for s in splits[f"prompts.{name}"]]
    assert len(prompts) == len(set(prompts)) == 120


def test_the_stage_writes_what_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews_data, "PROMPT_SPLITS", {"train": 60, "held_out": 30, "promotion": 30})
    _sdist(tmp_path, _sentences())
    out = tmp_path / "out"
    out.mkdir()
    built = build_data(out, {"packages": tmp_path}, lambda line: None)
    assert built.measured["sft"] == 480
    rows = [json.loads(line) for line in (out / "prompts.train.jsonl").read_text().splitlines()]
    assert len(rows) == 60
    assert set(rows[0]) == {"text", "group", "source"}
    assert {row["group"] for row in rows} == {"negative", "positive"}
    learned = [json.loads(line) for line in (out / "sft.jsonl").read_text().splitlines()]
    assert sum(row["prompt"] == START.strip() for row in learned) == 240
    assert all(is_fit(Sentence((row["prompt"] + row["completion"]).removeprefix(START), 0, "")) for row in learned)
    assert len((out / "perplexity.txt").read_text().splitlines()) == 256
