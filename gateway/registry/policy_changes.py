"""Which policy decides, in each project's trail: activations, and sources that were refused."""

from collections.abc import Mapping

from gateway.registry.core import Change


def activated(change: Change, revision: str, digest: str, sources: Mapping[str, str]) -> None:
    """A bundle began to decide; `sources` maps each source's name to its hash."""
    codes = {"revision": revision, "digest": digest}
    change.record("policy_change.activated", digest, codes=codes, after={"sources": sources})


def refused(change: Change, why: str, digest: str | None) -> None:
    """Sources did not become active; the bundle with this digest goes on deciding."""
    change.record("policy_change.refused", digest or "", codes={"digest": digest}, reason=why)
