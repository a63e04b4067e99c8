"""Every command of README and docs/ is run, or its words are checked where a comment says why it
cannot run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs_reference.commands import commands
from docs_reference.options import declared
from tests.docs.commands import Block, is_empty_folder, pages, read_blocks, split
from tests.docs.sandbox import ROOT, Sandbox
from tests.plugin.fork_server import ForkServer

PAGES = pages(ROOT)
BLOCKS = {page: read_blocks(page, text) for page, text in PAGES.items()}
WITH_COMMANDS = [
    page for page, blocks in BLOCKS.items() if any(block.commands() for block in blocks)
]
REASONS = (
    "a GPU",
    "a cluster",
    "a network",
    "many minutes",
    "the installation of packages",
    "a server that runs already",
)
"""What a command may need that it is not run."""


def commands_of(page: str) -> tuple[list[str], list[str]]:
    """The commands of a page that are run, and those of which only the words are checked."""
    run: list[str] = []
    parsed: list[str] = []
    for block in BLOCKS[page]:
        (parsed if "only parsed" in block.notes else run).extend(block.commands())
    return run, parsed


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_do_what_the_page_says(page: str, tmp_path: Path, forks: ForkServer) -> None:
    sandbox = Sandbox.create(
        tmp_path / "sandbox",
        empty=is_empty_folder(PAGES[page]),
        page=PAGES[page],
        forks=None if page == "README.md" else forks,  # as a reader starts them, once
    )
    run = parsed = 0
    for block in BLOCKS[page]:
        if "file" in block.notes or "append" in block.notes:
            sandbox.place(block)
        if "first" in block.notes:
            done = sandbox.run(split(block.notes["first"])[1])
            assert done.returncode == 0, f"{block.where}: {done.stdout}"
        said = ""
        for command in block.commands():
            if "only parsed" in block.notes:
                assert block.notes["only parsed"] in REASONS, (
                    f"{block.where}: {block.notes['only parsed']!r} is no reason"
                )
                wrong = sandbox.parse(command)
                assert wrong is None, f"{block.where}: {command}\n{wrong}"
                parsed += 1
            else:
                said += check(sandbox, block, command)
                run += 1
        assert block.notes.get("expect", "") in said, (
            f"{block.where}: {block.notes['expect']!r} is not in\n{said}"
        )
    expected = commands_of(page)
    assert (run, parsed) == (len(expected[0]), len(expected[1]))


def check(sandbox: Sandbox, block: Block, command: str) -> str:
    """Run one command, which ends as its block says; returns its output on one line."""
    env, words = split(command)
    done = sandbox.run(words, env)
    codes = re.findall(r"\d+", block.notes.get("exit", "0"))
    assert str(done.returncode) in codes, (
        f"{block.where}: {command}\nexit code {done.returncode}\n{done.stdout}"
    )
    assert "Traceback (most recent call last)" not in done.stdout, (
        f"{block.where}: {command}\n{done.stdout}"
    )
    return " ".join(done.stdout.split())


def counted() -> str:
    """How many commands are run, and of how many the words are checked."""
    run, parsed = ([len(commands_of(page)[at]) for page in WITH_COMMANDS] for at in (0, 1))
    return (
        f"documentation: {sum(run)} commands are run, the words of {sum(parsed)} are "
        f"checked, on {len(run)} pages"
    )


def test_most_commands_are_run() -> None:
    run, parsed = (sum(len(commands_of(page)[at]) for page in WITH_COMMANDS) for at in (0, 1))
    assert run > parsed, counted()


def test_every_option_that_is_mentioned_exists() -> None:
    known = {option.name for option in declared().options}
    for page, text in PAGES.items():
        unknown = set(re.findall(r"--gpubench-[a-z]+(?:-[a-z]+)*", text)) - known
        assert not unknown, f"{page} mentions {unknown}"


def test_every_command_of_ours_that_is_mentioned_exists() -> None:
    known = {word for command in commands() for word in command.name.split()[1:2]}
    for page, text in PAGES.items():
        unknown = set(re.findall(r"`gpubench ([a-z][a-z-]+)", text)) - known
        assert not unknown, f"{page} mentions gpubench {unknown}"
