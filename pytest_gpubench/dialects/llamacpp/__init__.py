"""llama.cpp's dialect."""

from pytest_gpubench.dialects.llamacpp.dialect import LlamacppDialect

DIALECT = LlamacppDialect()
