"""``path("chat/", include("chatstream.urls"))``"""

from __future__ import annotations

from django.urls import path

from .views import ChatStreamView

__all__ = ["app_name", "urlpatterns"]

app_name = "chatstream"

urlpatterns = [
    path("stream/", ChatStreamView.as_view(), name="stream"),
]
