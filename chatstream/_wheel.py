"""How the wheel is built: scripts and styles leave their comments and indentation behind.

Line by line, so that nothing is parsed, and nothing can be parsed wrong: no string of ours spans
lines, and line ends stay. ``pyproject.toml`` names the class. Imports nothing of the package.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools.command.build_py import build_py

__all__ = ["BuildPy", "stripped"]

# A comment that begins a line, in one line or in several; one after a statement, with no quote
# behind it that a string could end with; what a line begins with.
COMMENT = re.compile(r"^[ \t]*(?:/\*.*?\*/[ \t]*\n|//[^\n]*\n)", re.MULTILINE | re.DOTALL)
TRAILING = re.compile(r"(?<=[;,{)]) // [^\"'`/\n]*$", re.MULTILINE)
INDENTATION = re.compile(r"^[ \t]+|\n(?=\n)", re.MULTILINE)
TYPES = {".js", ".css"}


def stripped(source: str) -> str:
    """Return a script or a style without comments, indentation and empty lines."""
    return INDENTATION.sub("", TRAILING.sub("", COMMENT.sub("", source)))


class BuildPy(build_py):  # type: ignore[misc]
    """Copies the package, with our own scripts and styles stripped; vendored ones stay."""

    def build_package_data(self) -> None:
        super().build_package_data()
        for path in Path(self.build_lib).glob("chatstream/static/chatstream/*"):
            if path.suffix in TYPES:
                path.write_text(stripped(path.read_text(encoding="utf-8")), encoding="utf-8")
