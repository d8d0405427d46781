"""Answers over HTTP will live here: with ``cli`` the only importers of the agent."""
