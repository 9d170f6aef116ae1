"""The HTTP endpoints: checks first, then a response that streams, or JSON."""

from __future__ import annotations

from .base import ChatView
from .conversations import ConversationListView, ConversationView
from .following import FollowsRuns
from .openai import CompletionsView, ModelsView
from .page import ChatPageView, ConversationExportView
from .runs import RunListView, RunStopView, RunStreamView, RunView
from .starting import StartsRuns
from .stream import ChatStreamView

__all__ = [
    "ChatPageView",
    "ChatStreamView",
    "ChatView",
    "CompletionsView",
    "ConversationExportView",
    "ConversationListView",
    "ConversationView",
    "FollowsRuns",
    "ModelsView",
    "RunListView",
    "RunStopView",
    "RunStreamView",
    "RunView",
    "StartsRuns",
]
