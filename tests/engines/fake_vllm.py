"""A vLLM that can be asked for its vocabulary: as many modules as the question imports."""

from __future__ import annotations

from pathlib import Path

_MODULES = {
    "__init__": "",
    "envs": "environment_variables = {'VLLM_LOGGING_LEVEL': None, 'VLLM_FAKE': None}",
    "utils/__init__": "",
    "utils/argparse_utils": (
        "import argparse\nclass FlexibleArgumentParser(argparse.ArgumentParser):\n    pass"
    ),
    "config/__init__": "",
    "config/cache": "import typing\nCacheDType = typing.Literal['auto', 'fp8']",
    "entrypoints/__init__": "",
    "entrypoints/cli/__init__": "print('INFO: a line on stdout')",
    "entrypoints/cli/serve": """
import argparse
class Serve:
    def subparser_init(self, subparsers):
        parser = subparsers.add_parser("serve")
        parser.add_argument("--max-model-len", "-l", type=int)
        parser.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction)
        parser.add_argument("--moe-backend", choices=["auto", "warp"])
        return parser
def cmd_init():
    return [Serve()]
""",
}


def write_fake_vllm(folder: Path, version: str = "0.99.0") -> None:
    """Write the package and its metadata, to be put on PYTHONPATH."""
    for name, text in _MODULES.items():
        path = folder / "vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    info = folder / f"vllm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
