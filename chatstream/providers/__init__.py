"""Providers open a completion upstream. ``get_provider`` finds one by its alias in the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.apps import apps

if TYPE_CHECKING:
    from .base import Provider

__all__ = ["get_provider"]


def get_provider(alias: str = "default") -> Provider[Any]:
    """Return the provider of ``CHATSTREAM["PROVIDERS"][alias]``, one instance per process.

    Raises ``KeyError`` for an alias that is not there, ``ImproperlyConfigured`` for one that cannot
    be made.
    """
    providers = apps.get_app_config("chatstream").providers  # type: ignore[attr-defined]
    return cast("Provider[Any]", providers[alias])
