"""Every point of recipes.yaml as a test; select with -k or -m."""

from pytest_gpubench.suite import test_accuracy, test_engine_init, test_ratio, test_throughput

__all__ = ["test_accuracy", "test_engine_init", "test_ratio", "test_throughput"]
