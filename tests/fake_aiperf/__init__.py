"""An environment with a stand-in for AIPerf: a Python of its own, as `gpubench tools install` makes
one, in which `aiperf/cli.py` of this folder is installed.

What it writes has the form of what AIPerf 0.13.0 wrote (`aiperf/captured/`, of two conversations of two
turns against our loopback server, without the metrics that nobody here reads).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
CAPTURED = HERE / "aiperf" / "captured"


def make_environment(folder: Path, version: str | None = "0.13.0") -> Path:
    """Make the environment, and return its ``aiperf``.

    Args:
        version: as its metadata says it; None: it has no metadata.
    """
    packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    shutil.copytree(HERE / "aiperf", packages / "aiperf")
    if version is not None:
        about = packages / f"aiperf-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: aiperf\nVersion: {version}\n"
        )
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(sys.executable)
    base = Path(sys.base_prefix)
    (folder / "pyvenv.cfg").write_text(
        f"home = {base / 'bin'}\ninclude-system-site-packages = false\n"
    )
    script = folder / "bin" / "aiperf"
    script.write_text(f"#!{python}\nfrom aiperf.cli import app\napp()\n")
    script.chmod(0o755)
    return script
