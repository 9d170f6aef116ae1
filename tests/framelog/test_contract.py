"""The contract of frame logs, on each that comes with the package."""

import pytest

from chatstream.framelog.database import DatabaseFrameLog
from chatstream.framelog.memory import MemoryFrameLog
from chatstream.models import Run
from chatstream.testing import FrameLogContract


class TestMemoryFrameLog(FrameLogContract):
    def make_log(self) -> MemoryFrameLog:
        return MemoryFrameLog({})


@pytest.mark.usefixtures("database")
class TestDatabaseFrameLog(FrameLogContract):
    def make_log(self) -> DatabaseFrameLog:
        return DatabaseFrameLog({})

    def make_run(self) -> str:
        return Run.objects.create(owner="user:1", provider="default", request={}).pk
