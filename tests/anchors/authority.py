"""A time-stamp authority of openssl's, with a root of its own."""

import subprocess
from pathlib import Path

from tests.conftest import needs

TST_INFO = "1.2.840.113549.1.9.16.1.4"
CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[stamps]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[clients]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[tsa]
default_tsa = here
[here]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class Authority:
    """openssl with a root of its own and a certificate that may stamp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.openssl = needs("openssl", "install openssl")
        self.configuration = folder / "openssl.cnf"
        self.write("root")
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", "root.key", "-out", "root.pem", "-days", "30", "-extensions", "root",
                 "-config", "openssl.cnf")  # fmt: skip
        self.write("stamps")
        self.certify("tsa", "stamps")
        (folder / "serial").write_text("01\n")

    def certify(self, name: str, extensions: str) -> None:
        """A key and a certificate by the root, with the extensions of that section."""
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", f"{name}.key", "-out", f"{name}.csr",
                 "-config", "openssl.cnf")  # fmt: skip
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", "root.pem", "-CAkey", "root.key",
                 "-CAcreateserial", "-out", f"{name}.pem", "-days", "30",
                 "-extfile", "openssl.cnf", "-extensions", extensions)  # fmt: skip

    @property
    def roots(self) -> bytes:
        return (self.folder / "root.pem").read_bytes()

    def write(self, name: str) -> None:
        self.configuration.write_text(CONFIGURATION.format(name=name, folder=self.folder))

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [self.openssl, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def stamp(self, query: bytes) -> bytes:
        (self.folder / "query.tsq").write_bytes(query)
        self.run("ts", "-reply", "-config", "openssl.cnf", "-queryfile", "query.tsq",
                 "-out", "reply.tsr")  # fmt: skip
        return (self.folder / "reply.tsr").read_bytes()

    def stamped(self, message: bytes) -> bytes:
        """A time-stamp response for a message."""
        (self.folder / "message").write_bytes(message)
        self.run("ts", "-query", "-data", "message", "-sha256", "-cert", "-out", "asked.tsq")
        return self.stamp((self.folder / "asked.tsq").read_bytes())

    def stamped_by_a_client(self, message: bytes) -> bytes:
        """The same, signed with a key of the root's that is not for time stamps."""
        (self.folder / "good.tsr").write_bytes(self.stamped(message))
        self.certify("client", "clients")
        self.run("ts", "-reply", "-in", "good.tsr", "-token_out", "-out", "good.der")
        self.run("cms", "-verify", "-noverify", "-inform", "DER", "-in", "good.der",
                 "-out", "content.der")  # fmt: skip
        self.run("cms", "-sign", "-binary", "-nodetach", "-econtent_type", TST_INFO,
                 "-in", "content.der", "-signer", "client.pem", "-inkey", "client.key",
                 "-outform", "DER", "-out", "bad.der")  # fmt: skip
        status = bytes.fromhex("3003020100")
        body = status + (self.folder / "bad.der").read_bytes()
        return b"\x30\x82" + len(body).to_bytes(2) + body
