"""The tamper-evident log: canonical records in a Merkle tree, one writer, erasable payloads."""
