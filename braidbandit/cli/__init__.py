"""The command line will live here: with ``service`` the only importers of the agent."""
