"""Needs what the service needs, and the templates."""

import importlib.util

MISSING = [
    name
    for name in ("fastapi", "uvicorn", "pydantic_settings", "jinja2")
    if importlib.util.find_spec(name) is None
]
collect_ignore_glob = ["test_*.py"] if MISSING else []
