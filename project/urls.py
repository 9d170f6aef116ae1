"""The demo page at the root, the app's URLs below ``chat/``."""

from django.urls import include, path

from project.views import demo

urlpatterns = [
    path("", demo, name="demo"),
    path("chat/", include("chatstream.urls")),
]
