"""Whether a pinned package has a known vulnerability, from files alone."""
