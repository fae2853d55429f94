"""The REST API: a file a resource; `gateway.api.routes` holds the one table of all routes."""
