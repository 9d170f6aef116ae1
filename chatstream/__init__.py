"""The streaming chat layer for Django."""

__version__ = "0.1.0"
