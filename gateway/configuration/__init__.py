"""A project's configuration as YAML: read, compared with a running gateway, brought there."""
