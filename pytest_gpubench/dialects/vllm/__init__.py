"""vLLM's dialect."""

from pytest_gpubench.dialects.vllm.dialect import VllmDialect

DIALECT = VllmDialect()
