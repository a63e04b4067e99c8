"""An engine of another package, as an entry point would bring it."""

from pytest_gpubench import Dialect
from pytest_gpubench.dialects.sglang.dialect import SglangDialect


class MyDialect(SglangDialect):
    """SGLang under another name."""

    name = "mine"
    title = "Mine"


DIALECT = MyDialect()
NONE = object()
SILENT = type(
    "Silent",
    (Dialect,),
    {name: lambda _self, *_: None for name in Dialect.__abstractmethods__}
    | {"name": "silent", "title": "S"},
)()
