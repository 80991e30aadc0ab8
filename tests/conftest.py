"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture
def shared_data() -> Path:
    """The directory of real data beside the checkout, where there is one."""
    directory = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"real data is not on this machine: {directory}")
    return directory
