"""A book answers by key: nothing is searched once it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pytest_gpubench.model.cases import Case, Identity, RecipeBook, SourcePosition
from pytest_gpubench.model.evaluation import Evaluation
from pytest_gpubench.model.hardware import HARDWARE, Hardware
from pytest_gpubench.model.specs import Topology
from pytest_gpubench.model.workload import Workload

OWN = Hardware("own", "cuda", 10.0)


class Watched(tuple[Case, ...]):
    """Cases that count how often they are gone through."""

    walks = 0

    def __iter__(self) -> Iterator[Case]:
        type(self).walks += 1
        return super().__iter__()


def case(server: str, conc: int) -> Case:
    return Case(
        f"{server}:c{conc}",
        server,
        Identity("tiny", "bf16", "cpu", "vllm"),
        "org/tiny",
        "cpu",
        Topology(),
        Workload(16, 16, conc, 4, 1),
        512,
        server,
        (),
        SourcePosition("recipes.yaml", 1, 1),
    )


def test_lookups_go_through_no_list() -> None:
    cases = [case(server, conc) for server in ("one", "two") for conc in (1, 2)]
    asked = replace(case("two", 4), evaluation=Evaluation("recall", "recall", "recall"))
    book = RecipeBook(Watched([*cases, asked]), declared=(OWN,))
    made = Watched.walks
    assert book.cases_of("two") == (cases[2], cases[3], asked)
    assert book.cases_of("none") == ()
    assert book.case("one:c2") is cases[1]
    assert (book.loads, book.evaluations) == (tuple(cases), (asked,))
    assert (book.hardware("own"), book.hardware("cpu")) == (OWN, HARDWARE["cpu"])
    assert book.never_runs("one") == ""
    assert Watched.walks == made
    assert replace(book, declared=()).loads == book.loads
