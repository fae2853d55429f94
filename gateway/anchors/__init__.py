"""Anchors: places outside the gateway that vouch for a head of the log at a time."""
