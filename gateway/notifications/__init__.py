"""Tells people and programs of what happened: webhooks, chat, mail; from a durable outbox."""
