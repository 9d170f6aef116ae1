"""The house stands: imports go down only. The table is the house; `docs/design.md` explains it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "chatstream"

# A module may import what stands before it. A package's own `__init__` comes after its members.
HOUSE = """
FLOOR 0, pure
    core.outcomes  core.upstream  core.requests  core.frames  core.answers
    core.sse  core.shortcut  core.chunks  core.framer  core
FLOOR 1, what the rest is made of
    conf  ids  words  loop  writer  signals  models  tools
    providers.base  providers.rounds  providers.deadlines  providers.exchange  providers.transport
    providers.reading
    providers.openai  providers.scripted  providers.sources  providers
    framelog.base  framelog.memory  framelog.database  framelog
    wire.base  wire.native  wire.text  wire.openai  wire.ai_sdk  wire.ag_ui  wire.htmx  wire
FLOOR 2, the heart
    relay  pump  feeds  ledger  live  engine  conversations  runs
FLOOR 3, the web
    streaming  responses  refusals  negotiation  authentication  owners  permissions  throttling
    serializers
    pagination  places  transcript  page  templatetags
    views.links  views.base  views.following  views.starting
    views.runs  views.stream  views.conversations  views.page  views.htmx  views.openai  views.ag_ui
    views.ai_sdk  views  urls
FLOOR 4, glue nobody imports
    gunicorn  checks  apps  testing  management  migrations  _wheel
"""

# What the pure floor may use of the world: no clock, no files, no sockets, no threads.
PURE = {
    "__future__",
    "abc",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "json",
    "msgspec",
    "re",
    "types",
    "typing",
    "zlib",
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def read_house(text: str) -> dict[str, tuple[int, int]]:
    """Return the floor and the place of every module."""
    places, floor = {}, -1
    for line in text.splitlines():
        if line.startswith("FLOOR"):
            floor += 1
        else:
            for name in line.split():
                places[name] = (floor, len(places))
    return places


PLACES = read_house(HOUSE)


def module_names() -> list[str]:
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    names = {".".join(part for part in path.parts if part != "__init__") for path in paths}
    return sorted(names - {""})


def place_of(name: str) -> tuple[int, int] | None:
    """Return a module's place, or that of the package it is in: `management.commands.x`."""
    while name:
        if name in PLACES:
            return PLACES[name]
        name = name.rpartition(".")[0]
    return None


def path_of(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree_of(name: str) -> ast.Module:
    return ast.parse(path_of(name).read_text(encoding="utf-8"))


def imports_of(name: str) -> Iterator[str]:
    """Yield the absolute names of the modules that a module imports, anywhere in it."""
    package = ["chatstream", *name.split(".")]
    if path_of(name).name != "__init__.py":
        package.pop()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                is_module = f"{base}.{alias.name}".removeprefix("chatstream.") in module_names()
                yield f"{base}.{alias.name}" if is_module else base


def own_imports_of(name: str) -> set[str]:
    own = (found for found in imports_of(name) if found.startswith("chatstream."))
    return {found.removeprefix("chatstream.") for found in own}


@pytest.mark.parametrize("name", module_names())
def test_a_module_has_its_place_in_the_house(name):
    assert place_of(name), f"add {name} to the house, in this test and in docs/design.md"


@pytest.mark.parametrize("name", module_names())
def test_imports_go_down_only(name):
    above = {other for other in own_imports_of(name) if place_of(other) > place_of(name)}
    assert not above, f"{name} imports what stands above it"


@pytest.mark.parametrize("name", [name for name in module_names() if name.startswith("core")])
def test_the_core_is_pure(name):
    roots = {found.partition(".")[0] for found in imports_of(name)}
    assert roots <= PURE | {"chatstream"}
    assert all(other.startswith("core") for other in own_imports_of(name))
    calls = (node.func for node in ast.walk(tree_of(name)) if isinstance(node, ast.Call))
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & IMPURE_CALLS


def test_the_settings_know_no_backend():
    assert not {"openai", "httpx2", "httptools"} & set(imports_of("conf"))
    assert own_imports_of("conf") == set()


@pytest.mark.parametrize(
    "name", [name for name in module_names() if (place_of(name) or (0,))[0] < 4]
)
def test_nobody_imports_the_glue(name):
    assert not {other for other in own_imports_of(name) if place_of(other)[0] == 4}


def test_what_happens_to_be_imported_is_found(tmp_path, monkeypatch):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").touch()
    (tmp_path / "conf.py").touch()
    (tmp_path / "core" / "frames.py").write_text(
        "import time\ndef late():\n    from ..conf import x\n    from .. import conf\n"
    )
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    assert set(imports_of("core.frames")) == {"time", "chatstream.conf"}
