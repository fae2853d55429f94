"""`gateway-verify BUNDLE`: the verifier by itself, for whoever has no gateway.

Exit codes: 0 valid, 1 invalid (evidence of change), 2 usage, 3 cannot tell.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cryptography import x509

from gateway.trace.bundle import Bundle, BundleUnreadable
from gateway.trace.note import NoteFault, VerifierKey
from gateway.trace.trust import Trust
from gateway.trace.verdicts import Check
from gateway.trace.verify import verify

VALID, INVALID, USAGE, CANNOT_TELL = 0, 1, 2, 3
LIMITS = "What a gateway that was taken over never recorded cannot be shown by any bundle."

More = Callable[[Bundle], list[Check]]
"""Further checks of an opened bundle, for what needs more than the standard library."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; never returns."""
    parser = argparse.ArgumentParser(prog="gateway-verify", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder or zip")
    parser.add_argument("--trust-key", required=True, help="verifier key, or a file with it")
    parser.add_argument("--previous", type=Path, help="file with a checkpoint seen earlier")
    parser.add_argument("--min-size", type=int, default=0, help="records there must be at least")
    parser.add_argument("--writer", help="address that signs the anchors, 0x…")
    parser.add_argument("--rpc", help="URL of a node that is asked whether it has the anchors")
    parser.add_argument("--tsa-ca", type=Path, help="roots of time-stamp authorities, PEM")
    parser.add_argument("--strict", action="store_true", help="a warning is invalid too")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args(arguments)
    try:
        trust = trusted(given.trust_key, given.previous, given.min_size)
        trust = replace(trust, writer=given.writer, rpc=given.rpc, tsa_ca=roots(given.tsa_ca))
    except (OSError, ValueError, NoteFault) as fault:
        parser.error(f"--trust-key, --previous or --tsa-ca: {fault}")
    sys.exit(run(given.bundle, trust, strict=given.strict, as_json=given.json))


def trusted(key: str, previous: Path | None, min_size: int) -> Trust:
    """What the auditor brings, opened. Raises OSError, UnicodeDecodeError, `NoteFault`."""
    text = key if "+" in key else Path(key).read_text()
    seen = None if previous is None else previous.read_text()
    return Trust(VerifierKey.parse(text), seen, min_size=min_size)


def roots(file: Path | None) -> bytes | None:
    """Roots of time-stamp authorities. Raises OSError, and ValueError for what holds none."""
    if file is None:
        return None
    pem = file.read_bytes()
    x509.load_pem_x509_certificates(pem)
    return pem


def run(path: Path, trust: Trust, *, strict: bool, as_json: bool, more: Sequence[More] = ()) -> int:
    """Check, print, and return the exit code."""
    try:
        bundle = Bundle(path)
        try:
            checks = verify(bundle, trust)
            for one in more:
                checks += one(bundle)
        finally:
            bundle.close()
    except BundleUnreadable as fault:
        checks = [Check("bundle", "CANNOT TELL", str(fault))]
    return report(checks, strict=strict, as_json=as_json)


def report(checks: Sequence[Check], *, strict: bool, as_json: bool) -> int:
    """Print the checks and the verdict; return the exit code."""
    code, verdict = judged(checks, strict=strict)
    if as_json:
        print(json.dumps({"verdict": verdict, "exit_code": code, "checks": _documents(checks)}))
    else:
        for check in checks:
            print(_told(check))
        print(f"verdict: {verdict}")
        print(LIMITS)
    return code


def judged(checks: Sequence[Check], *, strict: bool) -> tuple[int, str]:
    """The exit code and the verdict: what shows a change goes before what cannot be told."""
    statuses = {check.status for check in checks}
    if "FAIL" in statuses:
        first = next(check for check in checks if check.status == "FAIL")
        return INVALID, f"INVALID: {first.name}: {first.detail}"
    if "CANNOT TELL" in statuses:
        first = next(check for check in checks if check.status == "CANNOT TELL")
        return CANNOT_TELL, f"CANNOT TELL: {first.name}: {first.detail}"
    if "WARN" in statuses:
        return (INVALID if strict else VALID), "VALID with warnings"
    return VALID, "VALID"


def _documents(checks: Sequence[Check]) -> list[dict[str, str]]:
    return [
        {"name": c.name, "status": c.status, "detail": c.detail} | ({"log": c.log} if c.log else {})
        for c in checks
    ]


def _told(check: Check) -> str:
    """One line; a bundle's own words are shown without what a terminal would obey."""
    name = f"{check.log} {check.name}" if check.log else check.name
    line = f"{name:<22} {check.status:<11} {check.detail}".rstrip()
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)


if __name__ == "__main__":
    main()
