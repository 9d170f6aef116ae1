"""``path("chat/", include("chatstream.urls"))``"""

from __future__ import annotations

from django.urls import path, re_path

from . import views

__all__ = ["app_name", "urlpatterns"]

app_name = "chatstream"

urlpatterns = [
    path("", views.ChatPageView.as_view(), name="chat"),
    path("c/<str:conversation>/", views.ChatPageView.as_view(), name="chat-conversation"),
    path("stream/", views.ChatStreamView.as_view(), name="stream"),
    path("runs/", views.RunListView.as_view(), name="runs"),
    path("runs/<str:run>/", views.RunView.as_view(), name="run"),
    path("runs/<str:run>/stream/", views.RunStreamView.as_view(), name="run-stream"),
    path("runs/<str:run>/stop/", views.RunStopView.as_view(), name="run-stop"),
    path("conversations/", views.ConversationListView.as_view(), name="conversations"),
    path(
        "conversations/<str:conversation>/",
        views.ConversationView.as_view(),
        name="conversation",
    ),
    path(
        "conversations/<str:conversation>/export/",
        views.ConversationExportView.as_view(),
        name="conversation-export",
    ),
    # Its clients send no slash at the end, and a redirect would lose their POST.
    re_path(r"^v1/chat/completions/?$", views.CompletionsView.as_view(), name="completions"),
    re_path(r"^htmx/?$", views.HtmxView.as_view(), name="htmx"),
    re_path(r"^htmx/(?P<run>[^/]+)/?$", views.HtmxRunView.as_view(), name="htmx-run"),
    re_path(r"^v1/models/?$", views.ModelsView.as_view(), name="models"),
    re_path(r"^ai-sdk/?$", views.AiSdkView.as_view(), name="ai-sdk"),
    re_path(
        r"^ai-sdk/(?P<chat>.+)/stream/?$", views.AiSdkStreamView.as_view(), name="ai-sdk-stream"
    ),
    re_path(r"^ai-sdk/(?P<chat>.+)/stop/?$", views.AiSdkStopView.as_view(), name="ai-sdk-stop"),
    re_path(r"^ag-ui/?$", views.AGUIView.as_view(), name="ag-ui"),
]
