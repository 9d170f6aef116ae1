"""Our benchmark rig: ``python -m tests.bench.run --help``; results in ``docs/performance.md``."""
