"""The demo page at the root, the app's URLs below ``chat/``."""

from django.urls import include, path

from project import views

urlpatterns = [
    path("", views.demo, name="demo"),
    path("demo/switches/", views.set_switches, name="demo-switches"),
    path("demo/cut/", views.cut, name="demo-cut"),
    # Those that start an answer, with the visitor's switches.
    path("chat/runs/", views.RunListView.as_view()),
    path("chat/stream/", views.ChatStreamView.as_view()),
    path("chat/", include("chatstream.urls")),
]
