"""A folder in which the commands of one page run, as a reader runs them; the stub engine stands in
for `vllm`."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from tests.docs.commands import Block, split
from tests.plugin.conftest import CALM
from tests.plugin.fork_server import ForkServer

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "stub_engine.py"
LM_EVAL = ROOT / "tests" / "fake_lm_eval"
SECONDS = 120
"""No command of the documentation may take longer here."""
_OWN_MODULES = {"pytest": "pytest", "gpubench": "pytest_gpubench.cli"}
_RUN_HERE = (*_OWN_MODULES, "git", "vllm")
_SHIM = """#!/bin/sh
# The stub in the place of `vllm`; one request at a time makes it slow, as it makes the real engine.
case " $* " in *" --max-num-seqs 1 "*) export GPUBENCH_STUB_TOKEN_TIME=0.02 ;; esac
export GPUBENCH_STUB_TOKENS_PER_DRAFT=3
exec "{python}" "{stub}" "$@"
"""


@dataclass
class Sandbox:
    """One page's folder."""

    path: Path
    bin: Path
    forks: ForkServer | None = None
    """Starts pytest and our command; None: each in a new interpreter."""

    @classmethod
    def create(
        cls, path: Path, *, empty: bool, page: str = "", forks: ForkServer | None = None
    ) -> Sandbox:
        """A git repository with the recipes of this one, or with nothing but the settings that put
        the stub in place.

        Args:
            path: its folder and that of its tools.
            empty: no recipes.
            page: text of the page; of the files that recipes.yaml includes those are there whose
                models it names: every command reads all of them.
        """
        tools = path / "bin"
        work = path / "work"
        tools.mkdir(parents=True)
        (work / "benchmarks").mkdir(parents=True)
        shim = tools / "vllm"
        shim.write_text(_SHIM.format(python=sys.executable, stub=STUB))
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
        (tools / "calm_clocks.py").write_text(CALM)
        settings = [f"gpubench_vllm_command = {shim} serve", f"gpubench_cache_dir = {path / 'hub'}"]
        settings.append("gpubench_rounds = 1")  # the pages' commands, in less time
        (work / "pytest.ini").write_text(
            "[pytest]\ntestpaths = benchmarks\naddopts = -ra\n" + "\n".join(settings) + "\n"
        )
        (work / ".gitignore").write_text("results/\n__pycache__/\n.pytest_cache/\n")
        if not empty:
            recipes = (ROOT / "recipes.yaml").read_text(encoding="utf-8")
            (work / "recipes.yaml").write_text(_included_by(page, recipes), encoding="utf-8")
            shutil.copytree(ROOT / "recipes.d", work / "recipes.d")
            shutil.copy(ROOT / "benchmarks" / "test_serving.py", work / "benchmarks")
        made = cls(work, tools, forks)
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
            made.run(["git", *words])
        return made

    def place(self, block: Block) -> None:
        """Write a block into the file that its comment names."""
        name = block.notes.get("file") or block.notes["append"]
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if "file" in block.notes else "a", encoding="utf-8") as file:
            file.write("\n".join(block.lines).rstrip("\n") + "\n")

    def run(
        self, words: list[str], env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; its streams come together, as a terminal shows them."""
        if words[0] not in _RUN_HERE:
            raise ValueError(f"{words[0]} is not run here: say above the block what it needs")
        environment = self._environment() | (env or {})
        module = _OWN_MODULES.get(words[0])
        if module and self.forks and self.forks.suits(environment):
            return self._forked(self.forks, module, words, environment)
        own = [sys.executable, "-m", module] if module else words[:1]
        return subprocess.run(
            [*own, *words[1:]],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )

    def _forked(
        self, forks: ForkServer, module: str, words: list[str], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        done = forks.run(
            words[1:],
            self.path,
            SECONDS,
            self.path.parent,
            module=module,
            environment=environment,
            together=True,
        )
        return subprocess.CompletedProcess(words, int(done.ret), done.stdout.str())

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GPUBENCH_", "PYTEST_", "GIT_", "TOX_"))
        }
        someone = {
            f"GIT_{role}_{what}": "someone@localhost"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        return (
            kept
            | someone
            | {
                "PATH": f"{self.bin}{os.pathsep}{kept['PATH']}",
                "GPUBENCH_LEASE_DIR": str(self.path.parent / "leases"),
                "HF_HUB_OFFLINE": "1",
                "PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:anyio -p calm_clocks",
                "PYTHONPATH": os.pathsep.join(
                    [str(self.bin), str(LM_EVAL), *filter(None, [kept.get("PYTHONPATH")])]
                ),
                "COLUMNS": "160",
            }
        )

    def parse(self, command: str) -> str | None:
        """Check the words of a command that cannot run here; what is wrong with them, None if
        nothing."""
        _, words = split(command)
        program, rest = words[0], words[1:]
        if program == "srun":
            program, rest = rest[0], rest[1:]
        if program == "sbatch":
            return None if (self.path / rest[-1]).is_file() else f"the page has no {rest[-1]}"
        if program == "pytest":
            done = self.run(["pytest", *rest, "--collect-only", "-q", "-p", "no:cacheprovider"])
            return None if done.returncode == 0 else done.stdout
        if program == "gpubench":
            return _parsed_by_gpubench(rest)
        if program == "pip":
            return _installable(rest)
        if program == "tox":
            return _tox_environment(rest)
        if program == "python":
            return _script(rest)
        if program == "git" and rest[:2] == ["bisect", "run"]:
            return _parsed_by_gpubench(rest[3:])
        if program == "git":
            return (
                None
                if rest[0] in ("add", "bisect", "commit")
                else f"git {rest[0]} is not for the documentation"
            )
        return f"nobody knows how to check {program!r} without running it"


def _included_by(page: str, recipes: str) -> str:
    """The recipes without what the page does not name."""
    files = re.findall(r"^- recipes\.d/(\S+)\.yaml\n", recipes, re.MULTILINE)
    named = [name for name in files if name.replace("-", "") in page]
    head = "include:\n"
    whole = head + "".join(f"- recipes.d/{name}.yaml\n" for name in files)
    assert whole in recipes
    kept = head + "".join(f"- recipes.d/{name}.yaml\n" for name in named) if named else ""
    return recipes.replace(whole, kept)


def _parsed_by_gpubench(words: list[str]) -> str | None:
    from pytest_gpubench.cli import _parser

    try:
        _parser().parse_args(words)
    except SystemExit as ended:
        return f"gpubench {' '.join(words)} is refused with exit code {ended.code}"
    return None


def _installable(words: list[str]) -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[1:]:
        if word.startswith("-"):
            continue
        wanted = Requirement(word)
        if wanted.name not in (project["name"], "tox"):
            return f"{wanted.name} is not what the documentation should install"
        unknown = wanted.extras - set(project.get("optional-dependencies", {}))
        if wanted.name == project["name"] and unknown:
            return f"no extra is named {', '.join(sorted(unknown))}"
    return None if words[:1] == ["install"] else "pip is only shown to install"


def _tox_environment(words: list[str]) -> str | None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    names = {section.removeprefix("testenv:") for section in tox.sections()} | set(
        tox["tox"]["env_list"].split()
    )
    asked = [words[at + 1] for at, word in enumerate(words) if word == "-e"]
    missing = [name for word in asked for name in word.split(",") if name not in names]
    return f"tox.ini has no environment {', '.join(missing)}" if missing else None


def _script(words: list[str]) -> str | None:
    """A script of the repository, and every option in it."""
    module = words[0] == "-m"
    path = ROOT.joinpath(*words[1].split(".")).with_suffix(".py") if module else ROOT / words[0]
    if not path.is_file():
        return f"{words} names no file of the repository"
    text = "".join(each.read_text(encoding="utf-8") for each in (path, *path.parent.glob("*.py")))
    missing = [
        word
        for word in words
        if word.startswith("--") and f'"{word.partition("=")[0]}"' not in text
    ]
    return f"{path.name} has no {', '.join(missing)}" if missing else None
