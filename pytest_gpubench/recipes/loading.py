"""Recipe files to a `RecipeBook`: read, merge, check, expand, share. Nothing in a file makes it
raise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.cases import Case, Identity, RecipeBook, SourcePosition, Unsupported
from pytest_gpubench.model.frozen import FrozenMap
from pytest_gpubench.model.hardware import HARDWARE, Hardware
from pytest_gpubench.model.policies import SharingPolicy
from pytest_gpubench.model.specs import ServerSpec
from pytest_gpubench.model.workload import AGENTIC
from pytest_gpubench.recipes import inferencex, schema
from pytest_gpubench.recipes.checking import check_section, host_facts, validated
from pytest_gpubench.recipes.evaluations import evaluation_cases
from pytest_gpubench.recipes.expansion import (
    Offload,
    Point,
    Resolved,
    concurrencies,
    dram_budget_gb,
    topology,
)
from pytest_gpubench.recipes.expressions import CASE_NAMES, Value
from pytest_gpubench.recipes.including import read_files
from pytest_gpubench.recipes.inferencex import (
    SPEC_WORD,
    hardware_of,
    name_error,
    runner_hint,
    token_error,
)
from pytest_gpubench.recipes.inheritance import Lineage, without_nulls
from pytest_gpubench.recipes.problems import PointError, ProblemLog, did_you_mean, join_path
from pytest_gpubench.recipes.resolving import Resolver
from pytest_gpubench.recipes.search_space import AgenticCoding, AgenticRow, FixedSeqLen, Row
from pytest_gpubench.recipes.server_groups import share
from pytest_gpubench.recipes.yaml_tree import Node

MAX_CASES = 50_000
_REQUIRED = ("model", "model-prefix", "precision", "framework", "runner", "scenarios")


@dataclass(frozen=True, slots=True)
class _Section:
    """One named entry of a file."""

    name: str
    node: Node
    at: SourcePosition
    is_template: bool
    is_foreign: bool


def load_recipes(paths: Sequence[Path], *, policy: SharingPolicy | None = None) -> RecipeBook:
    """Read recipe files and expand everything they declare.

    Args:
        paths: files, read in this order, each with those that it includes; they share names, so one
            may extend another's recipes and templates.
        policy: how cases share servers; None takes each recipe's own ``server-per``, or
            ``parallelism``.

    Returns:
        The book. Whatever is wrong with or in the files is in ``problems`` (this function does not
        raise for it); recipes without problems are expanded all the same.
    """
    files = [str(path) for path in paths]
    return _Loading(files, policy).load(paths)


class _Loading:
    def __init__(self, files: list[str], policy: SharingPolicy | None) -> None:
        self._files = files
        self._policy = policy
        self._log = ProblemLog(files)
        self._names: tuple[str, ...] = CASE_NAMES
        self._facts: dict[str, Value] = {}
        self._sections: dict[str, _Section] = {}
        self._runners: dict[str, str] = {}
        self._declared: dict[str, Hardware] = {}
        self._dram: dict[str, int] = {}
        """Memory of a label's hosts in MiB, where a file says it."""
        self._ratios: list[tuple[FrozenMap, SourcePosition]] = []
        self._unsupported: list[Unsupported] = []
        self._cases: list[Case] = []
        self._servers: dict[str, ServerSpec] = {}
        self._owners: dict[str, str] = {}
        self._budget = MAX_CASES

    def load(self, paths: Sequence[Path]) -> RecipeBook:
        roots = read_files(paths, self._log)
        self._facts = host_facts(roots, self._log)
        self._names = (*CASE_NAMES, *self._facts)
        for root in roots:
            self._reserved(root)
        for root in roots:
            self._collect(root)
        self._expand_all()
        policies = {case.policy for case in self._cases}
        return RecipeBook(
            cases=tuple(self._cases),
            servers=tuple(self._servers.items()),
            problems=self._log.sorted(),
            unsupported=tuple(sorted(self._unsupported, key=self._log.place)),
            policy=self._policy or (policies.pop() if len(policies) == 1 else "parallelism"),
            files=tuple(self._files),
            ratios=tuple(ratio for ratio, _ in self._ratios),
            ratio_places=tuple(at for _, at in self._ratios),
            declared=tuple(self._declared.values()),
        )

    def _reserved(self, root: Node) -> None:
        for label, entry in root.entries_of("runners").items():
            path = join_path("runners", label)
            if not check_section(schema.Runner, entry.node, path, self._log):
                continue
            given = without_nulls(entry.node).plain()
            runner = schema.Runner.model_validate(given)
            declared = runner.declared(label)
            if runner.dram_mib is not None:
                self._dram.setdefault(label, runner.dram_mib)
            node = entry.node.get("hardware") or entry.node
            hardware = label if declared else str(node.value)
            if declared:
                self._declare(declared, entry.key_at, path)
            elif hardware not in HARDWARE:
                words = f"unknown hardware '{hardware}'{did_you_mean(hardware, HARDWARE)}"
                self._log.add(node.at, join_path(path, "hardware"), words)
                continue
            if self._runners.setdefault(label, hardware) != hardware:
                self._log.add(
                    entry.key_at,
                    path,
                    f"another file says that '{label}' is {self._runners[label]}; keep one",
                )
        for index, item in enumerate(root.items_of("ratios")):
            if check_section(schema.RatioGate, item, join_path("ratios", index), self._log):
                self._ratios.append((FrozenMap(item.plain()), item.at))
        for key, kind, name in (
            ("runners", dict, "map"),
            ("templates", dict, "map"),
            ("ratios", list, "list"),
        ):
            section = root.get(key)
            if section and not isinstance(section.value, kind | None):
                self._log.add(section.at, key, f"must be a {name}")

    def _declare(self, hardware: Hardware, at: SourcePosition, path: str) -> None:
        wrong = token_error(hardware.key)
        if wrong is None and hardware_of(hardware.key, {}):
            wrong = f"'{hardware.key}' is known already; use it without an entry, or another label"
        elif wrong is not None:
            wrong = f"{wrong}, and the label of a GPU stands in test ids; choose another"
        elif self._declared.setdefault(hardware.key, hardware) != hardware:
            wrong = f"another file describes '{hardware.key}' otherwise; keep one"
        if wrong:
            self._log.add(at, path, wrong)

    def _collect(self, root: Node) -> None:
        is_foreign = inferencex.is_foreign(root)
        for name, entry in root.entries_of("templates").items():
            self._add(_Section(name, entry.node, entry.key_at, True, False))
        for name, entry in root.entries.items():
            if name not in inferencex.RESERVED:
                self._add(_Section(name, entry.node, entry.key_at, False, is_foreign))

    def _add(self, section: _Section) -> None:
        first = self._sections.get(section.name)
        if first:
            self._log.add(section.at, section.name, f"the name is taken by {first.at}; rename one")
        elif not isinstance(section.node.value, dict):
            hint = did_you_mean(section.name, inferencex.RESERVED)
            self._log.add(section.node.at, section.name, f"a recipe is a map of keys{hint}")
        else:
            self._sections[section.name] = section

    def _expand_all(self) -> None:
        sound: dict[str, Node] = {}
        broken: set[str] = set()
        for name, section in self._sections.items():
            if section.is_foreign and self._lists_unsupported(section):
                continue
            path = join_path("templates", name) if section.is_template else name
            known_runner = section.is_foreign or self._knows_runner(section.node, path)
            check = partial(check_section, schema.Recipe, section.node, path, self._log)
            if check(self._names) and known_runner:
                sound[name] = section.node
            else:
                broken.add(name)
        lineage = Lineage(sound, broken, self._log)
        for name, section in self._sections.items():
            if name in sound:
                merged = lineage.resolve(name)
                if merged is not None and not section.is_template:
                    self._expand(section, merged)

    def _knows_runner(self, node: Node, path: str) -> bool:
        runner = node.get("runner")
        if (
            runner is None
            or not isinstance(runner.value, str)
            or hardware_of(runner.value, self._runners)
        ):
            return True
        hint = runner_hint(runner.value, self._runners)
        self._log.add(
            runner.at, join_path(path, "runner"), f"unknown runner '{runner.value}'{hint}"
        )
        return False

    def _lists_unsupported(self, section: _Section) -> bool:
        reasons = inferencex.unsupported_reasons(section.node, self._runners)
        if reasons:
            self._unsupported.append(Unsupported(section.at, section.name, "; ".join(reasons)))
        return bool(reasons)

    def _expand(self, section: _Section, merged: Node) -> None:
        name = section.name
        missing = [key for key in _REQUIRED if merged.get(key) is None]
        for key in missing:
            self._log.add(
                section.at,
                join_path(name, key),
                f"missing key '{key}'; add it or extend a recipe that has it",
            )
        if missing:
            return
        recipe = validated(merged, name, self._log)
        if recipe is None:
            return
        scenarios = merged.get("scenarios") or merged
        if not recipe.rows:
            words = "missing key 'fixed-seq-len' or 'agentic-coding'; add one"
            self._log.add(scenarios.at, join_path(name, "scenarios"), words)
            return
        self._expand_recipe(section, merged, recipe)

    def _expand_recipe(self, section: _Section, merged: Node, recipe: schema.Recipe) -> None:
        hardware = hardware_of(recipe.runner or "", self._runners)
        if hardware is None:
            return  # said where the label stands
        base = Identity(
            recipe.model_prefix or "", recipe.precision or "", hardware, recipe.framework or ""
        )
        labelled = [row.spec_decoding == "mtp" for row in recipe.rows]
        only_agentic = not recipe.lengths
        wrong, variant = name_error(section.name, base, labelled, agentic=only_agentic)
        if wrong and section.is_foreign:
            self._unsupported.append(Unsupported(section.at, section.name, wrong))
            return
        if wrong:
            self._log.add(section.at, section.name, wrong)
            return
        self._budget -= sum(len(concurrencies(row)) for row in recipe.rows)
        if self._budget < 0:
            self._log.add(
                section.at,
                section.name,
                f"with it the files declare more than {MAX_CASES} cases; load fewer at once",
            )
            return
        draft = merged.get("speculative")
        if draft and not any(labelled):
            path = join_path(section.name, "speculative")
            self._log.add(
                draft.at,
                path,
                "no row has `spec-decoding: mtp`, so this draft is never used; label "
                "the rows or remove it",
            )
            return
        resolver = Resolver(section.name, merged, recipe, self._log, self._facts)
        resolved: list[Resolved] = []
        loads: dict[tuple[object, ...], int] = {}
        base = replace(base, variant=variant)
        for point in self._points(section, merged, recipe, hardware):
            member = resolver.resolve(point, _identity(base, point))
            if member is not None and not self._same_load(section.name, member, loads):
                resolved.append(member)
        self._publish(section, merged, recipe, resolved)

    def _same_load(
        self, name: str, resolved: Resolved, loads: dict[tuple[object, ...], int]
    ) -> bool:
        """Whether an earlier point has the same id: an open loop's is its rate, whatever the
        concurrency."""
        load, point = resolved.workload, resolved.point
        if not load.request_rate:
            return False
        first = loads.setdefault((point.topology, point.speculative, load.label), point.conc)
        if first == point.conc:
            return False
        words = (
            f"conc {point.conc} has the same rate as conc {first} ({load.label}); write a "
            "rate that reads conc, or one conc"
        )
        self._log.add(point.at, join_path(name, "client.request-rate"), words)
        return True

    def _points(
        self, section: _Section, merged: Node, recipe: schema.Recipe, hardware: str
    ) -> Iterator[Point]:
        seen: dict[tuple[object, ...], SourcePosition] = {}
        dialect = dialect_of(recipe.framework or "")
        for where, node, row, space in _rows(section.name, merged, recipe):
            parallelism = topology(row)
            wrong = dialect.row_error(parallelism)
            offload = None
            isl, osl, lengths = 0, 0, "agentic"
            if isinstance(space, FixedSeqLen):
                isl, osl, lengths = space.isl, space.osl, f"isl {space.isl} osl {space.osl}"
            elif isinstance(row, AgenticRow):
                offload = self._offload(row, space, recipe.runner or "", hardware)
                if offload.dram_gb is None and not section.is_foreign:
                    wrong = wrong or _NO_DRAM.format(recipe.runner)
            if wrong and offload is not None and section.is_foreign:
                words = f"agentic-coding row {parallelism.label} ({wrong})"
                self._unsupported.append(Unsupported(node.at, section.name, words))
                continue
            if wrong:
                self._log.add(node.at, where, wrong)
                continue
            for conc in concurrencies(row):
                drafted = row.spec_decoding == "mtp"
                point = Point(parallelism, isl, osl, conc, drafted, node.at, offload)
                key = (parallelism, isl, osl, conc, drafted, offload and offload.to)
                if key in seen:
                    words = (
                        f"duplicate case: {parallelism.label} {lengths} conc {conc} is already in "
                        f"the row on line {seen[key].line}; remove one"
                    )
                    self._log.add(node.at, where.rsplit("[", 2)[0], words)
                    continue
                seen[key] = node.at
                yield point

    def _offload(
        self, row: AgenticRow, space: AgenticCoding, runner: str, hardware: str
    ) -> Offload:
        router = row.router.name if row.router else ""
        if row.kv_offload_backend is None or space.dram_utilization is None:
            return Offload(router=router)
        budget = None
        if runner in self._dram:
            known = self._declared.get(hardware) or HARDWARE[hardware]
            gpus = topology(row).gpus
            budget = dram_budget_gb(
                self._dram[runner], space.dram_utilization, gpus, known.gpus_per_node
            )
        return Offload(row.kv_offloading, row.kv_offload_backend.name, budget, router)

    def _publish(
        self, section: _Section, merged: Node, recipe: schema.Recipe, resolved: list[Resolved]
    ) -> None:
        policy = self._policy or recipe.server_per or "parallelism"
        keys: dict[int, str] = {}
        for key, spec, members in share(resolved, policy):
            owner = self._owners.setdefault(key, section.name)
            if owner != section.name:
                words = (
                    f"its cases have the same ids as those of '{owner}' (server {key}); rename one"
                )
                self._log.add(section.at, section.name, words)
                return
            self._servers[key] = spec
            keys.update((id(member), key) for member in members)
        cases = [
            _case(section.name, recipe, member, keys[id(member)], policy) for member in resolved
        ]
        self._cases.extend(cases)
        nodes = merged.items_of("evals")
        path = join_path(section.name, "evals")
        try:
            self._cases.extend(evaluation_cases(recipe.evals or (), nodes, cases, path))
        except PointError as fault:
            self._log.add(*fault.problem)


_NO_DRAM = (
    "kv-offloading dram is sized by the host's memory, which runner '{0}' does not say; write "
    "`runners: {{{0}: {{hardware: ..., dram-mib: ...}}}}`"
)


def _rows(
    name: str, merged: Node, recipe: schema.Recipe
) -> Iterator[tuple[str, Node, Row, FixedSeqLen | AgenticCoding]]:
    """Path, node and keys of every row, and the space that it is in."""
    scenarios: dict[str, Sequence[FixedSeqLen | AgenticCoding]] = {
        "fixed-seq-len": recipe.lengths,
        "agentic-coding": recipe.agentic,
    }
    for key, spaces in scenarios.items():
        where = join_path(name, "scenarios", key)
        nodes = merged.items_of("scenarios", key)
        for i, (node, space) in enumerate(zip(nodes, spaces, strict=True)):
            rows = zip(node.items_of("search-space"), space.search_space, strict=True)
            for j, (row_node, row) in enumerate(rows):
                yield join_path(where, i, "search-space", j), row_node, row, space


def _identity(base: Identity, point: Point) -> Identity:
    """Who a point is: a draft, traces and offloading are words of its id."""
    words = [base.variant]
    if point.offload is not None:
        words = [AGENTIC, base.variant, *([point.offload.to] if point.offload.backend else [])]
    return replace(
        base,
        spec=SPEC_WORD if point.speculative else "",
        variant="-".join(word for word in words if word),
    )


def _case(
    name: str, recipe: schema.Recipe, resolved: Resolved, server: str, policy: SharingPolicy
) -> Case:
    identifier = f"{server}:{resolved.workload.label}"
    served = resolved.served
    return Case(
        id=identifier,
        recipe=name,
        identity=served.identity,
        model=served.spec.model,
        runner=recipe.runner or "",
        topology=served.spec.topology,
        workload=resolved.workload,
        rounds=resolved.rounds,
        max_model_len=served.max_model_len,
        server=server,
        tags=tuple(
            dict.fromkeys(
                word for part in identifier.split(":") for word in part.split("-") if word
            )
        ),
        position=resolved.point.at,
        runnable=served.runnable,
        why_not=served.why_not,
        gates=served.gates,
        source=recipe.source.at if recipe.source else "",
        official=FrozenMap(
            recipe.source.model_dump(by_alias=True, exclude_none=True) if recipe.source else {}
        ),
        differs=FrozenMap(recipe.differs or {}),
        policy=policy,
        facts=FrozenMap(
            recipe.facts.model_dump(by_alias=True, exclude_none=True) if recipe.facts else {}
        ),
    )
