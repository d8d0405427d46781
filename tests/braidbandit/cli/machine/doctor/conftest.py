"""A folder that everybody may reach, and a user who is not root."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

_NOBODY = 65534


@pytest.fixture
def shared():
    """A folder that another user may reach too."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def as_somebody():
    """Be no longer root, whom no permission stops."""
    if os.geteuid():
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def somebody():
    """The context of a user who is not root."""
    if not hasattr(os, "seteuid"):
        pytest.skip("this system has no such users")
    return as_somebody
