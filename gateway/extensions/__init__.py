"""The Extension API: agents that cannot be proxied ask before they act, or report afterwards."""
