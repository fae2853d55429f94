"""When two names are so alike that some JSON reader takes one for the other."""

from unicodedata import normalize


def fold(name: str) -> str:
    """Return ``name`` as the laxest known reader sees it: NFKC, case folded, without NUL.

    Go's encoding/json matches keys without regard to case (U+017F and U+212A included), and has
    been seen to end a key at NUL (GHSA-wvj2-96wp-fq3f, GHSA-q382-vc8q-7jhj).
    """
    if name.isascii():
        return name.lower().replace("\0", "")
    # Folding can undo the normal form and the other way round, so the form is taken twice.
    return normalize("NFKC", normalize("NFKC", name.replace("\0", "")).casefold())


def alike(names: dict[str, object]) -> tuple[str, str] | None:
    """Return two keys of one object that fold to the same name, or None."""
    seen: dict[str, str] = {}
    for name in names:
        folded = fold(name)
        if folded in seen:
            return seen[folded], name
        seen[folded] = name
    return None
