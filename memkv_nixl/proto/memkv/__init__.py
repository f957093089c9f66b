"""The protocol, by version."""
