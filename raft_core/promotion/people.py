"""Whether two names mean one person, however they are written: the requester must not pass for an approver.

Names are free text (Łukasz, 田中, O'Brien), so none is refused for its script. Two that look the same count as one
person instead: compatibility forms (NFKC), case, spaces, marks and invisible characters do not tell people apart, and
neither do Cyrillic and Greek letters that look like Latin ones. Two people whose names fold to one need longer ones.
"""

import unicodedata

_CAPITALS = str.maketrans("АВЕКМНОРСТУХЅІЈΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEKMHOPCTYXSIJABEZHIKMNOPTYX")
"""Cyrillic and Greek letters that look like Latin ones; of some only the capital does, so they go before casefold."""
_SMALL = str.maketrans("авгекмнорстухһѕіјӏԁԛԝьαγεηικνορτυχωıi1|0łøđħ", "abrekmhopctyxhsljldqwbayenlkvoptuxwllllolodh")
"""The same of small letters, and what is drawn alike among Latin letters and digits."""
_ALIKE = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_BLANK = "\u115f\u1160\u2800"
"""Letters and symbols that show nothing."""


def same_person(one: str, other: str) -> bool:
    """Whether ``one`` and ``other`` could be taken for each other."""
    return skeleton(one) == skeleton(other)


def skeleton(name: str) -> str:
    """What is left of a name once everything is gone that does not show, or shows alike."""
    latin = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name)).translate(_CAPITALS)
    folded = unicodedata.normalize("NFKC", latin.casefold())
    bare = "".join(
        character
        for character in unicodedata.normalize("NFD", folded)
        if unicodedata.category(character) not in ("Mn", "Me", "Cf", "Cc", "Zs", "Zl", "Zp") and character not in _BLANK
    ).translate(_SMALL)
    for seen, taken in _ALIKE:
        bare = bare.replace(seen, taken)
    return bare
