"""SGLang's dialect."""

from pytest_gpubench.dialects.sglang.dialect import SglangDialect

DIALECT = SglangDialect()
