#!/bin/sh
# Builds what is released, from the commit that is checked out, and signs it. SECURITY.md says how
# a release is checked.
#
#   deploy/release.sh PYTHON KEY SBOM OUT
#
# PYTHON has the build backend of the lock, KEY is an OpenSSH private key (or a public one whose
# private key the agent holds), SBOM is what `make sbom` wrote, OUT a folder that is not there yet.
set -eu
python=$1 key=$2 sbom=$3 out=$4
fail() {
  echo "release: $1" >&2
  exit 1
}
[ -f "$key" ] || fail "there is no key ${key:-given}; name one: make release KEY=~/.ssh/release"
[ ! -e "$out" ] || fail "$out is there already; take it away, or name another folder"
[ -z "$(git status --porcelain)" ] ||
  fail "what is signed is a commit; commit, or take away, what git status shows"
aside=$(mktemp -d "$(dirname "$out")/release.XXXXXX")
trap 'rm -rf "$aside"' EXIT
# The commit's time: whoever builds it anew has the same bytes.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$python" -m build --no-isolation --outdir "$aside" . >&2
cp "$sbom" "$aside/sbom.cdx.json"
cp requirements.lock "$aside"
git rev-parse HEAD >"$aside/COMMIT"
(
  cd "$aside"
  sums=$(sha256sum -- *)
  echo "$sums" >SHA256SUMS
)
ssh-keygen -q -Y sign -n policy-gateway -f "$key" "$aside/SHA256SUMS" ||
  fail "$key does not sign"
chmod 755 "$aside"
mv "$aside" "$out"
trap - EXIT
ls "$out"
