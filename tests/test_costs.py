"""What runs cost the database, counted: queries of a resume, commits of many runs."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from chatstream.core.requests import RunRequest
from chatstream.models import Run
from chatstream.runs import start_run
from chatstream.writer import writer

pytestmark = pytest.mark.usefixtures("runs")

SCRIPTED = "chatstream.providers.scripted.ScriptedProvider"
WORDS = ["word "] * 4000  # 20 kB
SECONDS = 3


@pytest.fixture
def chatstream(settings):
    """Return a function that configures one scripted provider."""

    def configure(script, **more):
        options = {"script": script}
        providers = {"default": {"BACKEND": SCRIPTED, "OPTIONS": options}}
        settings.CHATSTREAM = {"PROVIDERS": providers, "ALLOW_ANONYMOUS": True, **more}

    return configure


def test_a_resume_of_a_long_answer_costs_two_queries_besides_the_session(chatstream):
    chatstream([*WORDS, {"finish_reason": "stop"}])
    client = Client(headers={"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"})
    asked = client.post("/chat/stream/", {"prompt": "hi"}, content_type="application/json")
    body = b"".join(asked)
    assert body.count(b"word ") == len(WORDS)
    run = Run.objects.get()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        position = {"Last-Event-ID": f"{run.pk}:1"}
        again = b"".join(client.get(f"/chat/runs/{run.pk}/stream/", headers=position))
    assert again.count(b"word ") == len(WORDS)
    ours = [query["sql"] for query in queries if "django_session" not in query["sql"]]
    assert len(ours) == 2, ours


def test_the_runs_of_a_process_share_their_commits(chatstream):
    """Two hundred runs that say something every 5 ms: 40,000 chunks a second, if there is time."""
    chatstream([step for _ in range(SECONDS * 200) for step in ("a", 0.005)], MAX_OPEN_RUNS=200)
    asked = RunRequest([{"role": "user", "content": "hi"}])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: start_run(asked, owner="user:1"), range(200)))
    statements: list[str] = []
    writer().call(trace, statements.append)
    began = time.monotonic()
    time.sleep(1.5)
    writer().call(trace, None)
    commits = statements.count("COMMIT")
    assert 1 < commits < 100 * (time.monotonic() - began)


def trace(callback):
    """Tell ``callback`` each statement of this thread's connection; Django's log has no COMMIT."""
    connection.ensure_connection()
    connection.connection.set_trace_callback(callback)
