"""The Extension API, over a real database and pipeline."""
