"""The HTTP endpoints: checks first, then a response that streams, or JSON."""

from __future__ import annotations

from .ag_ui import AGUIView
from .ai_sdk import AiSdkStopView, AiSdkStreamView, AiSdkView
from .base import ChatView
from .conversations import ConversationListView, ConversationView
from .following import FollowsRuns
from .htmx import HtmxRunView, HtmxView
from .openai import CompletionsView, ModelsView
from .page import ChatPageView, ConversationExportView
from .runs import RunListView, RunStopView, RunStreamView, RunView
from .starting import StartsRuns
from .stream import ChatStreamView

__all__ = [
    "AGUIView",
    "AiSdkStopView",
    "AiSdkStreamView",
    "AiSdkView",
    "ChatPageView",
    "ChatStreamView",
    "ChatView",
    "CompletionsView",
    "ConversationExportView",
    "ConversationListView",
    "ConversationView",
    "FollowsRuns",
    "HtmxRunView",
    "HtmxView",
    "ModelsView",
    "RunListView",
    "RunStopView",
    "RunStreamView",
    "RunView",
    "StartsRuns",
]
