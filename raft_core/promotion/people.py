"""Whether two names can mean the same person, so that nobody approves their own request under a lookalike name.

Names are free text (Łukasz, 田中, O'Brien) in any script. Names that look the same count as one person: compatibility
forms (NFKC), case, spaces, marks and invisible characters make no difference, and neither do Cyrillic and Greek letters
that look like Latin ones. Two people whose names reduce to the same skeleton need longer names.
"""

import unicodedata

_CAPITALS = str.maketrans("АВЕКМНОРСТУХЅІЈΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEKMHOPCTYXSIJABEZHIKMNOPTYX")
"""Cyrillic and Greek capitals that look like Latin ones; replaced before casefold, since some small letters do not."""
_SMALL = str.maketrans("авгекмнорстухһѕіјӏԁԛԝьαγεηικνορτυχωıi1|0łøđħ", "abrekmhopctyxhsljldqwbayenlkvoptuxwllllolodh")
"""The same for small letters, and Latin letters and digits that look alike."""
_ALIKE = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_BLANK = "\u115f\u1160\u2800"
"""Letters and symbols that are blank."""


def same_person(one: str, other: str) -> bool:
    """Whether ``one`` and ``other`` look the same."""
    return skeleton(one) == skeleton(other)


def skeleton(name: str) -> str:
    """A name reduced to what distinguishes it: lookalikes are unified, invisible characters removed."""
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
