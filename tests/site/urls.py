"""The URLs of the test project: the app, plain views of a bare response, and the naive ones."""

from django.urls import include, path

from tests.site import naive, views

urlpatterns = [
    path("ready/", views.ready),
    path("inside/", views.inside),
    path("page/<str:name>/", views.page),
    path("htmx/<str:version>/", views.htmx),
    path("chat/", include("chatstream.urls")),
    path("bare/sync/", views.bare_sync),
    path("bare/async/", views.bare_async),
    path("bare/provider/", views.bare_provider),
    path("bare/chunks/", views.bare_chunks),
    path("bare/achunks/", views.bare_achunks),
    path("naive/sync/", naive.stream),
    path("naive/async/", naive.astream),
]
