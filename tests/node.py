"""Real JavaScript clients: the packages of ``tests/clients``, run by Node or bundled for a browser.

    [first, *rest] = node_client("ai_sdk.mjs", server_url, "ok@mark")

A script prints one JSON value a line. ``make test`` installs the packages where Node is there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import find_service, missing_service

__all__ = ["CLIENTS", "bundle", "node_client", "package_file"]

CLIENTS = Path(__file__).resolve().parent / "clients"
INSTALLED = CLIENTS / "node_modules" / ".installed"  # the Makefile's stamp
WITHIN = 60.0  # seconds


def node_client(script: str, *args: str, within: float = WITHIN) -> list[Any]:
    """Run a script of ``tests/clients`` to its end; return what its lines say.

    What it writes to stderr is in the failure if it fails, or takes longer than ``within`` seconds.
    """
    said = _run(CLIENTS / script, *args, within=within)
    # Not splitlines: JavaScript writes U+2028 and U+0085 as they are.
    return [json.loads(line) for line in said.split("\n") if line]


def bundle(script: str, target: Path) -> Path:
    """Write a script of ``tests/clients`` and all that it imports into one ES module; return it."""
    options = (
        "--bundle",
        "--format=esm",
        "--log-level=warning",
        "--jsx=automatic",
        '--define:process.env.NODE_ENV="production"',
    )
    esbuild = package_file("esbuild/bin/esbuild")
    _run(esbuild, str(CLIENTS / script), *options, f"--outfile={target}")
    return target


def package_file(path: str) -> Path:
    """Return a file of an installed package, such as ``htmx.org/dist/htmx.js``."""
    if not INSTALLED.exists():
        missing_service("the JavaScript clients are not installed: make clients")
    return CLIENTS / "node_modules" / path


def _run(script: Path, *args: str, within: float = WITHIN) -> str:
    node = find_service("node")
    package_file("")
    done = subprocess.run(
        [node, str(script), *args],
        cwd=CLIENTS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=within,
    )
    assert done.returncode == 0, f"{script.name} failed:\n{done.stderr.decode(errors='replace')}"
    return done.stdout.decode()
