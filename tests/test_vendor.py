"""The libraries that the package brings for the browser are those that ``VENDOR.json`` names."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[1] / "chatstream" / "static" / "chatstream"
VENDOR = STATIC / "vendor"
LIBRARIES = json.loads((VENDOR / "VENDOR.json").read_text())
SCRIPTS = sorted(path for path in STATIC.rglob("*") if path.suffix in {".js", ".css"})

each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each["file"])


@each_library
def test_a_library_is_the_one_that_was_taken(library: dict[str, str]) -> None:
    content = (VENDOR / library["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == library["sha256"]


@each_library
def test_a_library_has_a_licence_that_comes_along(library: dict[str, str]) -> None:
    assert {"package", "version", "licence"} <= library.keys()
    text = (VENDOR / library["licence_file"]).read_text()
    assert re.search(r"Copyright|Apache License", text)


@each_library
def test_the_documentation_tells_why_a_library_is_there(library: dict[str, str]) -> None:
    docs = (STATIC.parents[2] / "docs" / "dependencies.md").read_text()
    assert f"| `{library['package']}` {library['version']} |" in docs


def test_there_is_no_file_that_nobody_answers_for() -> None:
    named = {library[key] for library in LIBRARIES for key in ("file", "licence_file")}
    assert {path.name for path in VENDOR.iterdir()} == named | {"VENDOR.json"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_file_names_a_source_map(path: Path) -> None:
    # The map is not there, and collectstatic with a manifest storage would fail for want of it.
    assert b"sourceMappingURL" not in path.read_bytes()


def test_the_client_is_small() -> None:
    assert len(gzip.compress((STATIC / "chatstream.js").read_bytes(), 9)) <= 6_000
