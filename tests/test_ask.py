"""``manage.py chatstream_ask``: an answer in the terminal, and an honest exit status."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.behaviours import PARTIAL, TEXT
from tests.demo import ROOT, demo_environment
from tests.upstream import Upstream

TIMEOUT = 60  # seconds


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def command(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", "chatstream_ask", *arguments]


def environment(upstream: Upstream, model: str) -> dict[str, str]:
    return demo_environment(
        CHATSTREAM_BASE_URL=upstream.url, CHATSTREAM_MODEL=model, PYTHONIOENCODING="utf-8"
    )


def ask(
    upstream: Upstream, model: str, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(upstream, model),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


def test_the_answer_goes_to_stdout_and_the_closing_line_to_stderr(upstream: Upstream) -> None:
    result = ask(upstream, "ok_usage@ask", "Hello?")
    assert result.returncode == 0
    assert result.stdout == f"{TEXT}\n"
    line = r"completed · 10 tokens · first token after \d+\.\d\d s( · \d+\.\d tokens/s)?\n"
    assert re.fullmatch(line, result.stderr)


def test_an_unknown_token_count_is_absent(upstream: Upstream) -> None:
    result = ask(upstream, "ok@ask", "Hello?")
    assert re.fullmatch(r"completed · first token after \d+\.\d\d s\n", result.stderr)


def test_an_error_ends_with_status_1_after_the_text_that_came(upstream: Upstream) -> None:
    result = ask(upstream, "fin_mid_stream@ask", "Hello?")
    assert result.returncode == 1
    assert result.stdout == f"{PARTIAL}\n"
    assert (
        "failed · The answer ended before it was complete. (upstream_incomplete)" in result.stderr
    )


def test_an_error_before_the_first_token_leaves_stdout_empty(upstream: Upstream) -> None:
    result = ask(upstream, "http_500@ask", "Hello?")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "upstream_unavailable" in result.stderr
    assert "first token" not in result.stderr


def test_a_truncated_answer_is_done_and_says_so(upstream: Upstream) -> None:
    result = ask(upstream, "finish_length@ask", "Hello?")
    assert result.returncode == 0
    assert result.stderr.startswith("truncated · ")


def test_a_dash_reads_the_prompt_from_stdin(upstream: Upstream) -> None:
    result = ask(upstream, "ok@stdin", "-", stdin="From a\npipe")
    assert result.returncode == 0
    (request,) = upstream.requests_for("ok@stdin")
    assert request.body["messages"] == [{"role": "user", "content": "From a\npipe"}]


def test_model_and_system_travel_to_the_upstream(upstream: Upstream) -> None:
    ask(upstream, "ok", "Hello?", "--model", "ok@option", "--system", "Be brief.")
    (request,) = upstream.requests_for("ok@option")
    assert request.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]


def test_an_unknown_provider_is_refused_with_the_known_ones(upstream: Upstream) -> None:
    result = ask(upstream, "ok@nobody", "Hello?", "--provider", "nobody")
    assert result.returncode == 1
    assert "There is no provider 'nobody'. Configured: default." in result.stderr
    assert upstream.requests_for("ok@nobody") == []


def test_an_empty_prompt_asks_nobody(upstream: Upstream) -> None:
    result = ask(upstream, "ok@empty", "-", stdin=" \n")
    assert result.returncode == 1
    assert "The prompt is empty." in result.stderr
    assert upstream.requests_for("ok@empty") == []


@pytest.mark.parametrize("behaviour", ["endless", "hang_after_headers"])
def test_ctrl_c_closes_the_upstream_and_exits_with_130(upstream: Upstream, behaviour: str) -> None:
    model = f"{behaviour}@ctrl-c"
    with subprocess.Popen(
        command("Hello?"),
        cwd=ROOT,
        env=environment(upstream, model),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A shell's background jobs ignore it, and so would their children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert upstream.wait_requests(model, timeout=TIMEOUT)
        assert process.stdout is not None
        if behaviour == "endless":
            assert process.stdout.read(1)
        else:
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert errors.startswith("stopped")
    assert "Traceback" not in errors
    assert upstream.wait_closed(5, model)


def test_a_spinner_turns_on_a_terminal_until_the_first_token(upstream: Upstream) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("Hello?", "--no-color"),
        cwd=ROOT,
        env=environment(upstream, "ok_slow_first@tty") | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        screen = read_terminal(ours)
    os.close(ours)
    assert process.returncode == 0
    spinner, answer = screen.split("\r\x1b[K", 1)
    assert spinner.count("waiting for the first token") > 3
    assert answer.startswith(TEXT.replace("\n", "\r\n"))
    assert "waiting" not in answer
    assert "completed · first token after" in answer


def test_a_terminal_is_not_given_what_it_would_obey(upstream: Upstream) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("Hello?", "--no-color"),
        cwd=ROOT,
        env=environment(upstream, "ok_injection@tty"),
        stdin=theirs,
        stdout=theirs,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        screen = read_terminal(ours)
    os.close(ours)
    assert process.returncode == 0
    assert '"done": true' in screen
    assert "\0" not in screen
    assert "\x0b" not in screen


def read_terminal(descriptor: int) -> str:
    """Read until the other side has closed it."""
    data = b""
    ends = time.monotonic() + TIMEOUT
    while time.monotonic() < ends:
        if not select.select([descriptor], [], [], 1)[0]:
            continue
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux's way to say that nobody writes any more
            break
        if not part:
            break
        data += part
    return data.decode("utf-8", "replace")
