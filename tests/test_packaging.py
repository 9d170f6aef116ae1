"""What a newcomer gets: the wheel, the quick start, and a project with nothing else installed."""

import ast
import gzip
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.upstream import Upstream

ROOT = Path(__file__).resolve().parent.parent
DONE = 'data: {"done": true}\n\n'


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command; return what it printed. It fails the test with the same, if it fails."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this tree, built from a copy: setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "chatstream", source / "chatstream", ignore=ignore)
    # What must stay out is there to be left out.
    for name in ("tests", "project"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    run(sys.executable, *build, cwd=source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {name for name in names if name.startswith("chatstream/")}
    others = {name for name in names - package if ".dist-info/" not in name}
    in_tree = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "chatstream").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert others == set()
    assert package == in_tree
    assert "chatstream/py.typed" in package


def test_the_wheel_says_what_it_is_and_needs(unpacked):
    (distribution,) = importlib.metadata.distributions(path=[str(unpacked)])
    metadata = distribution.metadata
    assert metadata["Name"] == "django-chatstream"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    requirements = [Requirement(line) for line in distribution.requires or []]
    plain = {requirement.name for requirement in requirements if "extra" not in str(requirement)}
    assert plain == {"django", "djangorestframework", "openai"}
    tree = ast.parse((ROOT / "chatstream" / "__init__.py").read_text())
    assert f"__version__ = '{distribution.version}'" in ast.unparse(tree)


# A project with Django, Django REST framework and openai, and nothing else


def closure(*names: str) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distributions that these names require, themselves included."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = list(names)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        requirements = map(Requirement, found[name].requires or [])
        # No extras: none of the three is asked for with one.
        wanted += [r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="session")
def bare_python(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python with the wheel, its three requirements and theirs; made without a network."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for distribution in closure("django", "djangorestframework", "openai").values():
        files = distribution.files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            link = site_packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    for path in unpacked.iterdir():
        (site_packages / path.name).symlink_to(path)
    return folder / "bin" / "python"


PLAIN_PROJECT = """
import asyncio, sys
import django
from django.conf import settings
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from openai import AsyncOpenAI, OpenAI

for absent in ("httptools", "msgspec", "uvloop", "uvicorn", "pytest"):
    try:
        __import__(absent)
    except ImportError:
        continue
    sys.exit(f"{absent} is here: this is no bare project")

settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, INSTALLED_APPS=["chatstream"]
)
django.setup()
from chatstream.responses import EventStreamResponse

asked = {"model": "ok", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
base_url = sys.argv[1]

def answer(request):
    client = OpenAI(base_url=base_url, api_key="x")
    return EventStreamResponse(client.chat.completions.create(**asked))

async def aanswer(request):
    client = AsyncOpenAI(base_url=base_url, api_key="x")
    return EventStreamResponse(await client.chat.completions.create(**asked))

urlpatterns = [path("sync", answer), path("async", aanswer)]

async def read():
    response = await AsyncClient().get("/async")
    return b"".join([part async for part in response])

print(b"".join(Client().get("/sync")).decode(), end="--cut--")
print(asyncio.run(read()).decode(), end="")
"""


def test_a_plain_project_streams_from_a_sync_and_an_async_view(bare_python, tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN_PROJECT)
    environment = {"PATH": os.environ["PATH"]}
    with Upstream() as upstream:
        printed = run(bare_python, "plain.py", upstream.url, cwd=tmp_path, env=environment)
    answers = printed.split("--cut--")
    assert len(answers) == 2
    for answer in answers:
        assert answer.startswith(': open\nretry: 1000\ndata: {"text": "')
        assert answer.endswith(DONE)


def test_all_that_the_chat_page_loads_is_small(unpacked):
    static = unpacked / "chatstream" / "static" / "chatstream"
    files = [*static.glob("chatstream*.js"), static / "chatstream.css"]
    libraries = ("marked.umd.js", "marked-footnote.umd.js", "purify.min.js")
    files += [static / "vendor" / name for name in libraries]
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in files}
    assert sum(sizes.values()) <= 60_000, sizes
    assert sizes["chatstream.js"] <= 6_000


def test_no_string_of_a_script_spans_lines():
    """Or the wheel's build would change it: it takes the indentation of every line."""
    for path in (ROOT / "chatstream" / "static" / "chatstream").glob("*.js"):
        code = re.sub(r"/\*.*?\*/|^\s*//.*$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        # Within a regular expression or a string a backtick may stand alone.
        lines = re.sub(r"/(?:[^/\n\\]|\\.)+/[a-z]*|\"[^\"\n]*\"|'[^'\n]*'", "", code).splitlines()
        assert [line for line in lines if line.count("`") % 2] == [], path.name


# The quick start of the README


def blocks_of(section: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the text of each code block in a section of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    command: str, cwd: Path, env: dict[str, str], before_port: str = "--port "
) -> Iterator[str]:
    """Run a server, such as the README's, on a free port; yield its address."""
    port = free_port()
    argv = f"{command} {before_port}{port}".split()
    with (cwd / "server.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=cwd, env=env, stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("the server does not listen")


def follow_quick_start(folder: Path, env: dict[str, str]) -> tuple[Path, list[str]]:
    """Do what the README says, in its order; return the project and the commands left to run.

    Those are the server and the client. Python blocks go to the end of the file in their first
    line, as the text around them asks; the last one, another provider, is left out.
    """
    blocks = list(blocks_of("Quick start"))
    another_provider = max(n for n, (language, _) in enumerate(blocks) if language == "python")
    left, place = [], folder
    for number, (language, text) in enumerate(blocks):
        if language == "python" and number != another_provider:
            path = place / text.splitlines()[0].removeprefix("# ")
            path.write_text(f"{path.read_text()}\n{text}")
        elif language == "console":
            for line in text.splitlines():
                if line.startswith("pip install "):
                    continue
                if line.startswith("cd "):
                    place = place / line.removeprefix("cd ")
                elif line.startswith("export "):
                    name, _, value = line.removeprefix("export ").partition("=")
                    env[name] = value
                elif line.startswith(("python manage.py runserver", "curl")):
                    left.append(line)
                else:
                    run(*line.split(), cwd=place, env=env)
    return place, left


@dataclass
class Newcomer:
    """Who has followed the quick start, up to its last two commands: the server, the client."""

    project: Path
    env: dict[str, str]
    server: str
    client: str

    @contextmanager
    def serving(self, env: dict[str, str]) -> Iterator[str]:
        """Run the server on a free port, in one process; yield its address."""
        with serving(f"{self.server} --noreload", self.project, env, "127.0.0.1:") as address:
            yield address

    @contextmanager
    def with_settings(self, more: str) -> Iterator[None]:
        """Have more at the end of the settings for a while."""
        settings = self.project / "mysite" / "settings.py"
        before = settings.read_text()
        settings.write_text(f"{before}\n{more}\n")
        try:
            yield
        finally:
            settings.write_text(before)


@pytest.fixture(scope="module")
def newcomer(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """Follow the quick start in a folder where `pip install` has just been done."""
    tools = Path(sys.executable).parent
    env = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(unpacked),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    project, (server, client) = follow_quick_start(tmp_path_factory.mktemp("newcomer"), env)
    return Newcomer(project, env, server, client)


def reconnect(url: str, cookie: str, answer: str) -> int:
    """Come back as a browser does that has seen the whole answer; return the status."""
    last_id = re.findall(r"^id: (.+)$", answer, re.MULTILINE)[-1]
    headers = {
        "Cookie": cookie.split(";")[0],
        "Last-Event-ID": last_id,
        "Sec-Fetch-Site": "same-origin",
    }
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as again:
        return again.status


def test_the_quick_start_works_by_copy_and_paste(newcomer):
    project, env = newcomer.project, newcomer.env
    assert "no issues" in run("python", "manage.py", "check", cwd=project, env=env)
    path = re.search(r'"http://127\.0\.0\.1:8000(/.*)"', newcomer.client)[1]
    with Upstream() as upstream:
        # Stands for OpenAI: the one thing that a test cannot have.
        env = env | {"OPENAI_BASE_URL": upstream.url_playing("ok")}
        with (
            newcomer.serving(env) as address,
            urllib.request.urlopen(address + path, timeout=30) as response,
        ):
            answer = response.read().decode()
            reconnected = reconnect(address + path, response.headers["Set-Cookie"], answer)
        asked = run("python", "manage.py", "chatstream_ask", "Hello", cwd=project, env=env)
    assert "completed" in asked
    assert answer.startswith(": open\nretry: 1000\n")
    assert '{"text": "' in answer
    assert answer.endswith(DONE)
    assert reconnected == 204


def test_the_readmes_other_provider_is_accepted_too(newcomer):
    other = [text for language, text in blocks_of("Quick start") if language == "python"][-1]
    with newcomer.with_settings(other):
        printed = run("python", "manage.py", "check", cwd=newcomer.project, env=newcomer.env)
    assert "no issues" in printed


def test_without_allow_anonymous_the_quick_start_is_refused_as_json(newcomer):
    with (
        newcomer.with_settings('del CHATSTREAM["ALLOW_ANONYMOUS"]'),
        newcomer.serving(newcomer.env) as address,
        pytest.raises(urllib.error.HTTPError) as refused,
    ):
        urllib.request.urlopen(f"{address}/chat/stream/?prompt=Hello", timeout=30)
    assert refused.value.code == 401
    assert '"not_authenticated"' in refused.value.read().decode()


def test_the_blocks_of_python_in_the_readme_are_python():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        ast.parse(textwrap.dedent(block))


def test_every_link_in_the_readme_leads_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
