"""Beside other gateways: what a user could install by an ordinary package."""
