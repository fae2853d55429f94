"""Inputs that nobody thought of, and what must hold of them."""
