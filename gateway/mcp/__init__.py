"""The Model Context Protocol: its envelope, its endpoint, its servers."""
