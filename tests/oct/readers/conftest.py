from pathlib import Path

import pytest

from clarion.oct.phantom import make_eye

from .exports import screen_export


@pytest.fixture(scope="session")
def eye():
    return make_eye(17, 2)


@pytest.fixture(scope="session")
def export(eye, tmp_path_factory) -> Path:
    """A screen export of three lines of each direction; the eye moved 6 px right and 2 px down before the V lines."""
    return screen_export(tmp_path_factory.mktemp("export"), eye, vertical_shift=(6, 2))
