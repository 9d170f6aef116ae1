"""Servers that live for the whole session: starting one takes longer than most tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.acceptance.rows import Service, serve


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[..., Service]]:
    """Return a function: the service of that name and configuration, started at first use."""
    services: dict[str, Service] = {}
    with ExitStack() as stack:

        def get(name: str, transport: str = "auto", **site: object) -> Service:
            key = repr((name, transport, site))
            if key not in services:
                services[key] = stack.enter_context(serve(name, transport, **site))
            return services[key]

        yield get
