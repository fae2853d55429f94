"""`gateway openapi`: the description of the API, as the server publishes it."""

import typer
