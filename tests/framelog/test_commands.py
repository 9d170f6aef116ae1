"""``manage.py chatstream_reap`` and ``chatstream_prune``: for cron, with one line of output."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from chatstream.core.answers import Ending
from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import Outcome
from chatstream.framelog import get_frame_log
from chatstream.models import Run, from_now

DAY = 86_400


def call(command: str, **options: Any) -> str:
    out = StringIO()
    call_command(command, stdout=out, **options)
    return out.getvalue()


def make_run(**fields: Any) -> str:
    """A run in progress with a text in its log."""
    given = {"owner": "user:1", "provider": "default", "request": {}, "status": "in_progress"}
    run = Run.objects.create(**(given | {"producer": "p"} | fields)).pk
    get_frame_log().append({run: [Frame(1, Kind.TEXT, {"text": "Hello"})]})
    return run


def make_settled(seconds_ago: float) -> str:
    run = make_run()
    Run.objects.settle(run, "p", Ending(Outcome.COMPLETED, "Hello", 1))
    Run.objects.filter(pk=run).update(settled_at=from_now(-seconds_ago))
    return run


@pytest.mark.usefixtures("database")
def test_the_runs_of_dead_processes_are_reaped() -> None:
    dead = [make_run(lease_until=from_now(-1)) for _ in range(2)]
    alive = make_run(lease_until=from_now(60))
    assert call("chatstream_reap") == "Reaped 2 runs.\n"
    assert call("chatstream_reap") == "Reaped 0 runs.\n"
    rows = Run.objects.in_bulk()
    assert [rows[run].text for run in dead] == ["Hello", "Hello"]
    assert rows[alive].is_open


@pytest.mark.usefixtures("database")
def test_old_frames_are_pruned() -> None:
    old, fresh, running = make_settled(1.1 * DAY), make_settled(0.9 * DAY), make_run()
    assert call("chatstream_prune") == "Pruned 1 run.\n"
    assert call("chatstream_prune") == "Pruned 0 runs.\n"
    assert [get_frame_log().last_seq(run) for run in (old, fresh, running)] == [0, 1, 1]
    assert Run.objects.get(pk=old).text == "Hello"


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("command", ["chatstream_reap", "chatstream_prune"])
def test_a_verbosity_of_0_is_silent(command: str) -> None:
    make_run(lease_until=from_now(-1))
    make_settled(2 * DAY)
    assert call(command, verbosity=0) == ""


@pytest.mark.parametrize("command", ["chatstream_reap", "chatstream_prune"])
def test_frames_in_the_memory_of_a_server_are_out_of_reach(command: str, settings: Any) -> None:
    log = {"BACKEND": "chatstream.framelog.memory.MemoryFrameLog"}
    settings.CHATSTREAM = settings.CHATSTREAM | {"FRAME_LOG": log}
    with pytest.raises(CommandError, match="memory of the server"):
        call(command)
