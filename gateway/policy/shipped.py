"""What an installation does last: the policy that ships with the gateway is tried once."""

import os
from pathlib import Path

from gateway.policy.bundles import pack
from gateway.policy.proof import Commands, is_proved, names, try_all
from gateway.policy.sources import compose, the_sources


def try_shipped(binary: Path, rego: Path, proved: Path) -> None:
    """Try the shipped policy, and mark it as proved: the first start need not try it again.

    Tests have no clock and no randomness, so what passed with these very files and this OPA passes
    again. Raises `gateway.policy.sources.BundleFault`.
    """
    tree = compose(the_sources(), binary)
    _, tried = names(tree, rego)
    if not is_proved(proved, tried):
        archive = pack(tree, os.urandom(32)).archive
        try_all(Commands(binary), archive, tree, rego, None)
        proved.mkdir(parents=True, exist_ok=True)
        (proved / tried).touch()
