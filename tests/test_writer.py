"""The one thread that writes for all runs of a process."""

import os
import threading

import pytest
from django.db import OperationalError, transaction

from chatstream import writer as module
from chatstream.writer import Writer, writer

WAIT = 20  # seconds


@pytest.fixture
def own():
    """A writer of the test's own."""
    return Writer()


def test_jobs_run_one_after_the_other_in_one_daemon_thread(own):
    seen = []
    futures = [own.submit(seen.append, number) for number in range(100)]
    thread = own.submit(threading.current_thread).result(WAIT)
    assert all(future.done() for future in futures)
    assert seen == list(range(100))
    assert thread.daemon
    assert thread is not threading.current_thread()


def test_an_error_is_the_callers_and_the_next_job_runs(own):
    with pytest.raises(ZeroDivisionError):
        own.call(divmod, 1, 0)
    assert own.call(divmod, 7, 2) == (3, 1)


def test_a_job_may_call_another_at_once(own):
    thread = own.submit(threading.current_thread).result(WAIT)
    assert own.call(own.call, threading.current_thread) is thread


@pytest.mark.django_db
def test_within_a_transaction_a_call_is_part_of_it(own):
    with transaction.atomic():
        assert own.call(threading.current_thread) is threading.current_thread()


def test_a_caller_waits_for_a_hanging_database_no_longer_than_it_has_patience(own, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    gate, late = threading.Event(), []
    own.submit(gate.wait, WAIT)
    with pytest.raises(OperationalError, match="too long"):
        own.call(late.append, "written after the caller was told that it was not")
    gate.set()
    own.submit(lambda: None).result(WAIT)
    assert late == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_writer_of_its_own():
    parents = writer().call(threading.current_thread)
    child = os.fork()
    if child == 0:
        try:
            os._exit(writer().submit(threading.current_thread).result(WAIT) is parents)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
