"""The agent's side of an approval: what it is told within the protocol, and calls kept as tasks."""
