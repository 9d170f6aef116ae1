"""Builds what is not Python or not ours: the two C tools and the peers' environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["BUILD", "HERE", "ROOT", "Missing", "build_tools", "peers_python", "tool"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = HERE / "build"
_REQUIREMENTS = HERE / "requirements.txt"


class Missing(RuntimeError):
    """A program that a server needs is not installed; the server is left out."""


def tool(name: str) -> str:
    """Return the path of a built C tool: ``upstream`` or ``load``."""
    return str(BUILD / name)


def build_tools() -> None:
    """Compile the C tools that are older than their source."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise SystemExit("The benchmark needs a C compiler: apt install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    for name in ("upstream", "load"):
        source, binary = HERE / f"{name}.c", BUILD / name
        if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
            continue
        command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", binary, source]
        subprocess.run(command, check=True)


def peers_python() -> str:
    """Return the interpreter of the peers' environment, made on first use."""
    python, stamp = BUILD / "venv" / "bin" / "python", BUILD / "venv" / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != _REQUIREMENTS.read_text():
        print("Making the peers' environment (tests/bench/build/venv)", file=sys.stderr, flush=True)
        venv.create(BUILD / "venv", clear=True, with_pip=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", _REQUIREMENTS], check=True)
        shutil.copy(_REQUIREMENTS, stamp)
    return str(python)
