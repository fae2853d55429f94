"""A policy-as-code gateway between AI agents and the tools they call."""
