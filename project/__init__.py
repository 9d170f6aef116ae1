"""The demo: a page that talks to a model through chatstream."""
