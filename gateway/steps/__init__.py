"""The questions asked of a call before it leaves: one file, one step, one verb."""
