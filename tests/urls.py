"""The URLs of the unit tests: the app where the demo has it."""

from django.urls import include, path

urlpatterns = [path("chat/", include("chatstream.urls"))]
