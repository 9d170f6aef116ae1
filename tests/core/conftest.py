"""Hypothesis on a busy machine: fewer examples, and no time limit for each."""

from hypothesis import settings

settings.register_profile("chatstream", max_examples=60, deadline=None)
settings.load_profile("chatstream")
