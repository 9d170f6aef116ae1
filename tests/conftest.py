"""What every test shares: the marks, and which services a machine must have.

A test that needs Chromium, nginx or a built embedded model skips without it, unless
``CHATSTREAM_REQUIRE_SERVICES=1`` (continuous integration) turns the skip into a failure.
"""

import os
import shutil

import pytest


def find_service(program: str) -> str:
    """Return the path of ``program``; skip the test without it, or fail where it is required."""
    path = shutil.which(program)
    if path is None:
        missing_service(f"'{program}' is not on PATH")
    return path


def missing_service(reason: str) -> None:
    """Skip the running test, or fail it where ``CHATSTREAM_REQUIRE_SERVICES`` is set."""
    if os.environ.get("CHATSTREAM_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and CHATSTREAM_REQUIRE_SERVICES=1 asks for it")
    pytest.skip(reason)
