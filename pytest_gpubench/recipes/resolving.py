"""One point of a recipe, resolved: ``when`` laid over, expressions evaluated, defaults filled in.

What reads nothing that differs between two points is the same for both, and resolved once.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from pytest_gpubench.dialects.dialect import Dialect
from pytest_gpubench.dialects.registry import dialect_of
from pytest_gpubench.model.acceptance_curves import published_length, thinks
from pytest_gpubench.model.cases import Identity
from pytest_gpubench.model.frozen import FrozenMap, freeze, is_whole, spelled
from pytest_gpubench.model.hardware import platform_of
from pytest_gpubench.model.rounds import Rounds
from pytest_gpubench.model.specs import ServerSpec, Speculative
from pytest_gpubench.model.workload import Workload
from pytest_gpubench.recipes.expansion import (
    MODEL_LEN_MARGIN,
    Point,
    Resolved,
    Served,
    given_keys,
    no_replay,
    offload_error,
    workload_of,
)
from pytest_gpubench.recipes.expressions import ExpressionError, Value, is_computed, parse, render
from pytest_gpubench.recipes.gates import contradiction
from pytest_gpubench.recipes.inheritance import (
    branch,
    condition_text,
    names_read,
    overlay,
    server_reads,
)
from pytest_gpubench.recipes.problems import PointError, ProblemLog, join_path
from pytest_gpubench.recipes.schema import ClientKeys, Recipe
from pytest_gpubench.recipes.server_keys import GOLDEN, SpeculativeKeys, check_flag
from pytest_gpubench.recipes.yaml_tree import Node

_T = TypeVar("_T")
_LAYERS = (
    *("image", "model", "serve", "speculative", "env", "client", "gates", "requires"),
    "plan-only",
)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a point's workload is resolved from."""

    served: Served
    layer: Node
    names: dict[str, Value]


@dataclass(slots=True)
class Resolver:
    """Resolves the points of one merged recipe."""

    name: str
    node: Node
    """The merged recipe."""
    recipe: Recipe
    """The same, validated."""
    log: ProblemLog
    facts: Mapping[str, Value]
    """What the files say of the host."""
    _layers: dict[tuple[int, ...], Node] = field(default_factory=dict)
    _made: dict[tuple[object, ...], Any] = field(default_factory=dict)
    """Results by use, node (by identity: an alias makes one node serve twice) and values of the
    names that the node reads."""
    _reads: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _settings: dict[tuple[object, ...], _Setting] = field(default_factory=dict)
    _server_reads_conc: bool = field(init=False)
    _dialect: Dialect = field(init=False)

    def __post_init__(self) -> None:
        self._dialect = dialect_of(self.recipe.framework or "")
        self._server_reads_conc = "conc" in server_reads(self.node)

    def resolve(self, point: Point, identity: Identity) -> Resolved | None:
        """The point with all values, or None after reporting what is wrong."""
        try:
            return self._resolve(point, identity)
        except PointError as fault:
            at, path, message = fault.problem
            self.log.add(at, path, message)
            return None

    def _resolve(self, point: Point, identity: Identity) -> Resolved:
        key = (
            identity,
            point.topology,
            point.speculative,
            point.isl,
            point.osl,
            point.conc if self._server_reads_conc else None,
            point.offload,
        )
        setting = self._settings.get(key)
        if setting is None:
            setting = self._settings[key] = self._setting(point, identity)
        names = {**setting.names, "conc": point.conc}
        return Resolved(point, *self._workload(setting, names, point), setting.served)

    def _setting(self, point: Point, identity: Identity) -> _Setting:
        row_names = point.names(identity.hardware, identity.precision, identity.framework)
        row_names |= self.facts
        layer = self._layer(row_names)
        draft = layer.get("speculative") if point.speculative else None
        spec_tokens = self._spec_tokens(draft, row_names) if draft else 0
        names: dict[str, Value] = {**row_names, "spec_tokens": spec_tokens}
        dialect = self._dialect
        max_model_len = self._max_model_len(layer, names)
        if max_model_len is not None:
            names["max_model_len"] = max_model_len
        serve, extra_args = self._serve(layer, names, max_model_len)
        if point.offload and (node := layer.get("serve")):
            wrong = offload_error(point.offload, dialect.flags.offloading, serve, extra_args)
            if wrong:
                raise PointError(node.at, join_path(self.name, "serve"), wrong)
        speculative = None
        if draft:
            make = partial(self._speculative, draft, names)
            speculative = self._once("speculative", draft, names, make)
            speculative = _with_backend(speculative, dialect, identity.hardware, serve)
            speculative = self._with_golden(speculative, draft, layer)
            if wrong := dialect.draft_error(speculative):
                raise PointError(draft.at, join_path(self.name, "speculative"), wrong)
        image = layer.get("image")
        why_not = self._why_not(point, draft, identity.hardware, layer)
        spec = ServerSpec(
            framework=identity.framework,
            model=str(layer.entries["model"].node.value),
            hardware=identity.hardware,
            topology=point.topology,
            serve=serve,
            revision=self.recipe.revision,
            speculative=speculative,
            env=self._env(layer, names),
            extra_args=extra_args,
            command=_command(self.recipe.command),
            requires=self._frozen(layer, "requires"),
            image=str(image.value) if image else "",
        )
        return _Setting(
            Served(
                identity,
                spec,
                None if self._leaves_length(layer) else max_model_len,
                not why_not,
                why_not,
                self._gates(layer),
            ),
            layer,
            names,
        )

    def _frozen(self, layer: Node, key: str) -> FrozenMap:
        node = layer.get(key)
        if node is None:
            return FrozenMap()
        return self._once(key, node, {}, lambda: FrozenMap(node.plain()))

    def _gates(self, layer: Node) -> FrozenMap:
        for metric, entry in layer.entries_of("gates").items():
            if wrong := contradiction(metric, entry.node.plain()):
                path = join_path(self.name, "gates", metric)
                raise PointError(entry.node.at, path, wrong)
        return self._frozen(layer, "gates")

    def _layer(self, names: Mapping[str, Value]) -> Node:
        """The recipe with every `when` part laid over it that holds."""
        parts = self.node.items_of("when")
        held = tuple(self._held(parts, names))
        if held not in self._layers:
            layer = Node(
                {key: entry for key, entry in self.node.entries.items() if key in _LAYERS},
                self.node.at,
            )
            for index in held:
                laid = {key: entry for key, entry in parts[index].entries.items() if key in _LAYERS}
                layer = overlay(layer, Node(laid, parts[index].at))
            self._layers[held] = layer
        return self._layers[held]

    def _held(self, parts: list[Node], names: Mapping[str, Value]) -> Iterator[int]:
        """Indexes of the parts that hold; of a chain of `if`, `elif`, `else` the first one."""
        decided = False
        for index, part in enumerate(parts):
            key, condition = branch(part)
            decided = decided and key != "if"
            path = join_path(self.name, "when", index, key)
            if not decided and self._holds(condition, path, names):
                decided = True
                yield index

    def _holds(self, condition: Node | None, path: str, names: Mapping[str, Value]) -> bool:
        if condition is None or isinstance(condition.value, bool):
            return bool(condition and condition.value)
        try:
            expression = parse(condition_text(str(condition.value)))
            if "max_model_len" in expression.names:
                length = self._max_model_len(self.node, names)
                names = names if length is None else {**names, "max_model_len": length}
            value = expression.evaluate(names)
        except ExpressionError as error:
            raise PointError(condition.at, path, str(error)) from None
        if not isinstance(value, bool):
            raise PointError(
                condition.at, path, f"the value is {value}, not true or false; write a comparison"
            )
        return value

    def _render(self, node: Node, path: str, names: Mapping[str, Value]) -> Any:
        """Plain data with every expression evaluated."""
        if isinstance(node.value, dict):
            return {
                key: self._render(entry.node, join_path(path, key), names)
                for key, entry in node.value.items()
            }
        if isinstance(node.value, list):
            return [
                self._render(item, join_path(path, index), names)
                for index, item in enumerate(node.value)
            ]
        if not is_computed(node.value):
            return node.value
        try:
            return render(str(node.value), names)
        except ExpressionError as error:
            lengths = f"isl {names['isl']}" if "isl" in names else "an agentic row, without lengths"
            raise PointError(
                node.at,
                path,
                f"{error} (at {lengths}, conc {names['conc']}, tp {names['tp']})",
            ) from None

    def _once(self, use: str, node: Node, names: Mapping[str, Value], make: Callable[[], _T]) -> _T:
        """The result of ``make``, once for all points between which nothing differs that the node
        reads.

        Nodes live as long as their layer, so that their identities stay unique.
        """
        reads = self._reads.get(id(node))
        if reads is None:
            reads = self._reads[id(node)] = tuple(names_read(node))
        key = (use, id(node), *map(names.get, reads))
        if key not in self._made:
            self._made[key] = make()
        made: _T = self._made[key]
        return made

    def _spec_tokens(self, draft: Node, names: Mapping[str, Value]) -> int:
        node = draft.get("num-speculative-tokens")
        path = join_path(self.name, "speculative", "num-speculative-tokens")
        if node is None:
            raise PointError(draft.at, path, "missing key 'num-speculative-tokens'; add it")
        value = self._render(node, path, names)
        if not is_whole(value) or not 1 <= value <= 1000:
            raise PointError(node.at, path, f"must be an integer from 1 to 1000, not {value!r}")
        return value

    def _max_model_len(self, layer: Node, names: Mapping[str, Value]) -> int | None:
        """Tokens of a sequence; None: an agentic row that leaves them to the engine."""
        rules = self._dialect.flags
        node = layer.get("serve", rules.length)
        if node is None or node.value is None:
            if "isl" not in names:
                return None
            return int(names["isl"]) + int(names["osl"]) + MODEL_LEN_MARGIN
        path = join_path(self.name, "serve", rules.length)
        value = self._render(node, path, names)
        wrong = check_flag(rules, rules.length, value)
        if is_computed(value):  # a literal ${, written $${
            wrong = wrong or "must be an integer"
        if wrong:
            raise PointError(node.at, path, wrong)
        sharing = self._sharing(layer, names)
        if int(value) < sharing:
            words = f"{value} leaves none of {sharing} sequences a token; raise it"
            raise PointError(node.at, path, words)
        return int(value) // sharing

    def _sharing(self, layer: Node, names: Mapping[str, Value]) -> int:
        """How many sequences share the length that the server is given."""
        rules = self._dialect.flags
        node = layer.get("serve", rules.length_of) if rules.length_of else None
        if node is None or node.value is None:
            return rules.slots
        value = self._render(node, join_path(self.name, "serve", rules.length_of), names)
        return value if isinstance(value, int) and value > 0 else 1

    def _serve(
        self, layer: Node, names: Mapping[str, Value], max_model_len: int | None
    ) -> tuple[FrozenMap, tuple[str, ...]]:
        flags: dict[str, Any] = {}
        extra: tuple[str, ...] = ()
        path = join_path(self.name, "serve")
        for flag, entry in layer.entries_of("serve").items():
            if entry.node.value is None:
                continue
            if flag == "extra-args":
                extra = tuple(
                    str(word) for word in self._render(entry.node, join_path(path, flag), names)
                )
            else:
                made = partial(self._flag, flag, entry.node, path, names)
                flags[flag] = self._once(flag, entry.node, names, made)
        if max_model_len is not None and not self._leaves_length(layer):
            length = max_model_len * self._sharing(layer, names)
            flags = {self._dialect.flags.length: length} | flags
        rules = self._dialect.flags
        if wrong := rules.words_error(extra) or rules.said_twice(flags, extra):
            at = layer.entries_of("serve")["extra-args"].node.at
            raise PointError(at, join_path(path, "extra-args"), wrong)
        return FrozenMap(flags), extra

    def _leaves_length(self, layer: Node) -> bool:
        """Whether the recipe leaves the longest sequence to the engine, by null."""
        node = layer.get("serve", self._dialect.flags.length)
        return node is not None and node.value is None

    def _flag(self, flag: str, node: Node, path: str, names: Mapping[str, Value]) -> Any:
        value = self._render(node, join_path(path, flag), names)
        wrong = check_flag(self._dialect.flags, flag, value)
        if wrong:
            raise PointError(node.at, join_path(path, flag), wrong)
        return freeze(value)

    def _speculative(self, draft: Node, names: Mapping[str, Value]) -> Speculative:
        path = join_path(self.name, "speculative")
        plain = self._render(draft, path, names)
        self._revalidate(SpeculativeKeys, draft, plain, path)
        method = plain.pop("method", None)
        model = plain.pop("model", None)
        if method is None:
            raise PointError(
                draft.at, path, "missing key 'method'; add it (eagle3, mtp, ngram, ...)"
            )
        if model is None and method in self._dialect.drafted_by_another:
            raise PointError(
                draft.at,
                path,
                f"missing key 'model': method '{method}' needs a draft; add its repository",
            )
        backend: str | None = plain.pop("attention-backend", None)
        tokens, revision = plain.pop("num-speculative-tokens"), plain.pop("revision", None)
        return Speculative(
            method=method,
            num_speculative_tokens=tokens,
            model=model,
            revision=revision,
            attention_backend=backend,
            options=FrozenMap({key.replace("-", "_"): value for key, value in plain.items()}),
        )

    def _with_golden(self, speculative: Speculative, draft: Node, layer: Node) -> Speculative:
        """A synthetic length that is asked for by name, from the published curves."""
        key = "synthetic_acceptance_length"
        if speculative.options.get(key) != GOLDEN:
            return speculative
        given = [layer.get("client", "chat-template-kwargs")]
        given.append(layer.get("serve", "default-chat-template-kwargs"))
        switches: dict[str, Any] = next((node.plain() for node in given if node), {})
        model = str(layer.entries["model"].node.value)
        length = published_length(speculative, model, thinking=thinks(switches))
        if length is None:
            node = draft.get("synthetic-acceptance-length") or draft
            words = "no acceptance length is published for this draft; write it as a number"
            path = join_path(self.name, "speculative", "synthetic-acceptance-length")
            raise PointError(node.at, path, words)
        return replace(speculative, options=FrozenMap({**speculative.options, key: length}))

    def _revalidate(
        self,
        model: type[SpeculativeKeys | ClientKeys],
        node: Node,
        plain: dict[str, Any],
        path: str,
    ) -> Any:
        """The schema again, now that expressions have values."""
        try:
            return model.model_validate(plain)
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            key = next(
                (part for part in detail["loc"] if isinstance(part, str) and "(" not in part), ""
            )
            at = node.get(key)
            raise PointError((at or node).at, join_path(path, key), detail["msg"]) from None

    def _env(self, layer: Node, names: Mapping[str, Value]) -> FrozenMap:
        node = layer.get("env")
        if node is None:
            return FrozenMap()
        rendered = partial(self._render, node, join_path(self.name, "env"), names)
        return self._once(
            "env",
            node,
            names,
            lambda: FrozenMap({name: _env_value(value) for name, value in rendered().items()}),
        )

    def _workload(
        self, setting: _Setting, names: Mapping[str, Value], point: Point
    ) -> tuple[Workload, Rounds]:
        node, path = setting.layer.get("client"), join_path(self.name, "client")
        given: dict[str, Any] = {}
        if node:
            given = self._once("client", node, names, partial(self._client, node, path, names))
        return workload_of(point, given, node or self.node, path, setting.served.max_model_len)

    def _client(self, node: Node, path: str, names: Mapping[str, Value]) -> dict[str, Any]:
        return given_keys(
            self._revalidate(ClientKeys, node, self._render(node, path, names), path), node
        )

    def _why_not(self, point: Point, draft: Node | None, hardware: str, layer: Node) -> str:
        said = layer.get("plan-only")
        if said is not None:
            return str(said.value)
        lacks = "its flags live in a shell script: the entry has no "
        if self.node.get("serve") is None:
            return lacks + "`serve`"
        if point.speculative and draft is None:
            return lacks + "`speculative`"
        platform = platform_of(hardware)
        if platform not in ("cuda", "cpu"):
            maker = {"rocm": "AMD", "hpu": "Gaudi"}[platform]
            return f"{maker} recipes are plan-only for now"
        return no_replay(point, layer.get("client"))


def _with_backend(
    draft: Speculative, dialect: Dialect, hardware: str, serve: FrozenMap
) -> Speculative:
    """``auto`` leaves the backend to the engine; without a word it is ours to choose."""
    backend = draft.attention_backend
    if backend is None:
        backend = dialect.default_draft_backend(draft.method, hardware, serve)
    elif backend.lower() == "auto":
        backend = None
    return replace(draft, attention_backend=backend)


def _env_value(value: Any) -> Any:
    if isinstance(value, dict):
        default = value.get("default")
        read = {"from": value["from"], "default": None if default is None else _env_value(default)}
        return read | ({"optional": True} if value.get("optional") else {})
    return None if value is None else spelled(value)


def _command(command: Any) -> tuple[str, ...] | None:
    if isinstance(command, str):
        command = shlex.split(command)
    return None if command is None else tuple(command)
