"""Rated sentences from the archive of Hutto & Gilbert (ICWSM 2014): read, clean, and choose those fit for prompts.

Each has the mean of about 20 human ratings from −4 (extremely negative) to 4 (extremely positive).
"""

import html
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raft_core.errors import IntegrityError
from raft_core.examples.packages import PACKAGES, extract
from raft_core.types import content_id

INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "movies": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "products": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "editorials": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
}
HARSH = re.compile(
    r"\b(?:kill|murder|slaughter|massacre|tortur|blood|corpse|suicid|terror|bomb|genocid|molest|pedophil|violen"
    r"|brutal|assault|weapon|death|dead|shoot|stabb|gun(?:s|fire|play|fight|man|men)?\b|gore|gory|war(?:s|fare)?\b"
    r"|nazi|holocaust|abus|rap(?:e|es|ed|ist)\b|incest|butcher|cannibal|behead|lynch|assassin|die(?:s|d)?\b|dying"
    r"|sex|homosex|porn|erotic|nud(?:e|ity)|naked|penis|breast|boob|whore|slut|hooker|prostitut|masturbat|vomit|puke|urin"
    r"|feces|fuck|shit|bitch|ass(?:es|ed)?\b|damn|crap|bastard|hell\b|moron|idiot|imbecil|retard|cripple|midget"
    r"|racis|racial|slave|nigg|negro|fag|dyke|chink|gook|spic\b|kike|trann|gyps|jew|muslim|arab|gay|lesbian|queer"
    r"|black(?:s|ness)?\b|white(?:s|ness)?\b|asian|drug|heroin\b|cocaine)\w*",
    re.IGNORECASE,
)
"""Violence, slurs, sex, groups of people: reward models are trained on such sentences; no prompt is made of them."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One cleaned sentence, its mean rating, and its place in the source, such as "movies 17"."""

    text: str
    rating: float
    source: str

    @property
    def group(self) -> str:
        """The slice of the scorecard. A third class for the few ratings near zero would be too small to be useful."""
        return "negative" if self.rating < 0 else "positive"


def read_sentences(sdist: Path) -> dict[str, list[Sentence]]:
    """Every sentence by domain, cleaned, without duplicates, in an order that depends only on the texts.

    Raises IntegrityError for a file that does not have the expected columns.
    """
    assert sdist.name == PACKAGES["ratings"].file
    seen: set[str] = set()
    domains = {}
    with tempfile.TemporaryDirectory() as scratch:
        inner = extract(sdist, INNER_ARCHIVE, Path(scratch) / "ratings.tar.gz")
        for domain, member in FILES.items():
            text = extract(inner, member, Path(scratch) / f"{domain}.tsv").read_text(encoding="utf-8")
            domains[domain] = _shuffled(_distinct(_parse(text, domain), seen))
    return domains


def clean(text: str) -> str:
    """Plain text: no entities, tags or doubled quotes, one space between words."""
    before = None
    while text != before:
        before, text = text, html.unescape(text)
    text = re.sub(r"<[^<>]{1,40}>", "", text)
    text = text.replace("''", '"').replace("``", '"').replace("`", "'").replace("’", "'").replace("–", "-")
    text = re.sub(r"\s{3,}", " - ", text.strip())
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"(?<!\.)\.\.$", ".", text)


def is_fit(sentence: Sentence) -> bool:
    """Whether it may be used as a prompt or for training: one whole plain sentence of 9 to 30 harmless words."""
    text = sentence.text
    return (
        text.isascii()
        and re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'\-]*[A-Za-z]\.", text) is not None
        and 9 <= len(text.split()) <= 30
        and HARSH.search(text) is None
    )


def _parse(text: str, domain: str) -> Iterable[Sentence]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        columns = line.rstrip("\r").split("\t")
        if len(columns) != 3:
            raise IntegrityError(
                f"line {number} of {domain} in the archive of rated sentences has {len(columns)} columns",
                expected="3 columns: id, rating, text",
                hint="delete the archive from the packages folder of the cache and prepare the example again",
            )
        yield Sentence(clean(columns[2]), float(columns[1]), f"{domain} {columns[0]}")


def _distinct(sentences: Iterable[Sentence], seen: set[str]) -> Iterable[Sentence]:
    for sentence in sentences:
        canonical = " ".join(re.findall(r"\w+", sentence.text.lower()))
        if canonical and canonical not in seen:
            seen.add(canonical)
            yield sentence


def _shuffled(sentences: Iterable[Sentence]) -> list[Sentence]:
    return sorted(sentences, key=lambda sentence: content_id("reviews", sentence.text))
