"""What an engine must say of itself, so that everything else can serve it: the protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pytest_gpubench.dialects.command_line import CommandLine, environment
from pytest_gpubench.dialects.counters import Counters
from pytest_gpubench.dialects.engine_facts import Check, EngineFacts
from pytest_gpubench.dialects.engine_log import EngineLog
from pytest_gpubench.dialects.server_flags import FlagRules
from pytest_gpubench.model.failures import GpubenchError
from pytest_gpubench.model.hardware import Platform
from pytest_gpubench.model.specs import ServerSpec, Speculative, Topology


@dataclass(frozen=True, slots=True)
class KeyDelivery:
    """How the API key of a launch reaches the engine, never on a command line."""

    env: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    """Text of a file that only this user can read; its path stands for `command_line.KEY_FILE`."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a ready server says of itself; a question without an answer is None or empty."""

    entry: Mapping[str, Any]
    """Its own entry of ``/v1/models``."""
    metrics: str
    """The text of ``/metrics``."""
    ask: Callable[[str], Any]
    """The parsed JSON of a path."""


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """One question for the tokens of a text, sent by POST."""

    path: str
    body: Mapping[str, Any]
    then: Callable[[Any], TokenizeRequest] | None = None
    """The next question, made of the parsed answer; None: this answer has the tokens."""


class Dialect(ABC):
    """One engine. Pure: no process, no file, no network; stateless, one object for all.

    Another engine is added by a subclass and an entry point of the group
    ``pytest_gpubench.engines`` that names an instance; ``docs/adding-an-engine.md`` has the way.
    """

    name: ClassVar[str]
    """The word in ``framework:`` and in ids."""
    title: ClassVar[str]
    """As its makers write it."""
    owners: ClassVar[tuple[str, ...]]
    """What ``/v1/models`` says as ``owned_by``."""
    distributions: ClassVar[tuple[str, ...]]
    """Python distributions that are the engine, the first one its usual name."""
    platform: ClassVar[Platform] = "cuda"
    """Of a distribution that does not say otherwise."""
    key_variable: ClassVar[str]
    """Environment variable of the API key, also where it is not used for a launch."""
    flags: ClassVar[FlagRules]
    counters: ClassVar[Counters]
    ours_env: ClassVar[Mapping[str, str]] = {}
    """Environment of every launch, unless the recipe says otherwise."""
    recorded_env: ClassVar[tuple[str, ...]] = ()
    """Prefixes of variables that steer the engine and belong in a record."""
    thread_places: ClassVar[str] = ""
    """Variable that binds the threads of a server on the CPU: cores of each rank, ``0-3|4-7``."""
    uuids_from: ClassVar[str] = ""
    """First version that was seen to serve with ``CUDA_VISIBLE_DEVICES`` given by UUID; empty:
    all."""
    starts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """How a command line of others starts it, each the words before its first option; one that
    begins with ``-m`` follows a Python."""
    example: ClassVar[str] = ""
    """A command of another installation, for messages."""
    doctor_rules: ClassVar[str] = ""
    """``module:attribute`` of the doctor's rules for this engine; empty: those of all engines."""
    continuous_usage: ClassVar[bool] = False
    """Whether a stream may carry usage with every chunk (``continuous_usage_stats``)."""
    keeps_connections: ClassVar[bool] = True
    """Whether a connection may serve one request after another: some servers promise it, and close
    after a stream."""
    estimates_memory: ClassVar[bool] = False
    """Whether the doctor knows how the engine divides a GPU's memory."""
    takes_files: ClassVar[bool] = False
    """Whether the engine is given files of weights instead of a repository."""
    attention_alone: ClassVar[bool] = False
    """Whether attention may be data-parallel while the experts are cut (`dp-attn` with `ep: 1`)."""
    drafted_by_another: ClassVar[tuple[str, ...]] = (
        *("eagle", "eagle3", "draft_model", "medusa", "mlp_speculator", "dflash"),
    )
    """Methods whose draft is a model of its own, which a recipe must name; not mtp and dspark,
    whose heads may be a part of the model."""

    @property
    @abstractmethod
    def log(self) -> EngineLog:
        """How it writes its log."""

    @property
    def vocabulary_question(self) -> str:
        """A program for the engine's interpreter that prints the names that it takes, as one line
        of JSON (flags, variables, choices); empty: it cannot be asked."""
        return ""

    @abstractmethod
    def default_command(self, installed: Callable[[str], bool]) -> tuple[str, ...]:
        """The command that starts it where the user names none.

        Args:
            installed: whether this interpreter has a distribution.
        """

    @abstractmethod
    def words(self, spec: ServerSpec, command: Sequence[str], served_name: str) -> Iterator[str]:
        """The argument list for a spec.

        Raises:
            GpubenchError: for a value that its command line cannot express.
        """

    def draft_keys(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The draft of a command line of others as keys of ``speculative``: what `words` writes,
        read back; empty: it has none.

        Args:
            settings: flags without dashes and their values, as `command_reading` has them.

        Raises:
            ValueError: if a recipe cannot say it; the text is a clause.
        """
        return {}

    @abstractmethod
    def key(self, api_key: str) -> KeyDelivery:
        """How a launch gets its key."""

    @abstractmethod
    def complete(self, facts: EngineFacts, answers: Answers) -> EngineFacts:
        """What the log has said, completed by what the ready server says."""

    @abstractmethod
    def checks(self, spec: ServerSpec, facts: EngineFacts) -> Iterator[Check]:
        """What a recipe asks of this engine, beside what is asked of all engines."""

    @abstractmethod
    def prefix_caching(self, spec: ServerSpec) -> bool:
        """Whether prompts may be found in a cache on this server."""

    def render(
        self,
        spec: ServerSpec,
        command: Sequence[str],
        *,
        served_name: str,
        cache_dir: str | None = None,
        offline: bool = True,
    ) -> CommandLine:
        """A spec as a command line.

        Args:
            command: its beginning; ``spec.command`` is not looked at, the caller has chosen.
            served_name: what the server is to call its model.
            cache_dir: the Hugging Face hub cache that the server reads.
            offline: keep it from the network: weights are fetched beforehand.

        Raises:
            GpubenchError: if the recipe sets what is not a recipe's to set, or a value that no
                command line can express.
        """
        self._refuse_ours(spec)
        unset = tuple(name for name, value in spec.env.items() if value is None)
        added = environment(spec, self.ours_env, cache_dir, offline)
        return CommandLine(tuple(self.words(spec, command, served_name)), tuple(added), unset)

    def launch_env(self, start_timeout: float) -> Mapping[str, str]:
        """Environment that follows from the launch; the host's and the recipe's own win.

        Args:
            start_timeout: seconds that the start may take.
        """
        return {}

    def topology_error(self, topology: Topology) -> str | None:
        """Why the engine cannot serve a topology, None if it can."""
        return None

    def row_error(self, topology: Topology) -> str | None:
        """Why a row of a search space cannot be served, None if it can."""
        if topology.dp_attn and topology.ep != topology.tp and not self.attention_alone:
            return (
                "dp-attn: true spreads the experts over all ranks; "
                f"write ep: {topology.tp} beside it"
            )
        return self.topology_error(topology)

    def default_draft_backend(
        self, method: str, hardware: str, serve: Mapping[str, object]
    ) -> str | None:
        """The attention backend of a draft that names none, where it must not be the engine's own
        choice."""
        return None

    def our_defaults(self, spec: ServerSpec) -> tuple[str, ...]:
        """A sentence per setting of a server that is ours, where its recipe does not name it."""
        return ()

    def draft_error(self, draft: Speculative) -> str | None:
        """Why the engine cannot serve a draft, None if it can."""
        return None

    def made_up_weights(self, spec: ServerSpec) -> bool:
        """Whether the engine makes its weights up: nothing is read, and its text means nothing."""
        return False

    def tokenize_text(self, model: str, text: str, *, special: bool) -> TokenizeRequest:
        """The question for the tokens of a bare text.

        Args:
            special: whether special tokens that the tokenizer adds by itself are counted.
        """
        body: dict[str, Any] = {"model": model, "prompt": text}
        if not special:
            body["add_special_tokens"] = False
        return TokenizeRequest("/tokenize", body)

    def tokenize_chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any]
    ) -> TokenizeRequest:
        """The question for the tokens of a chat with the model's template.

        Args:
            template: keyword arguments of the template.
        """
        body: dict[str, Any] = {"model": model, "messages": list(messages)}
        if template:
            body["chat_template_kwargs"] = dict(template)
        return TokenizeRequest("/tokenize", body)

    def tokens(self, answer: Any) -> tuple[int, Any]:
        """Count and tokens of the last answer; the tokens are None where it has only a count.

        Raises:
            ValueError, KeyError, TypeError: if it is no such answer.
        """
        return answer["count"], answer.get("tokens")

    def weights_file(self, names: Sequence[str], spec: ServerSpec) -> str | None:
        """Which of a snapshot's files holds the weights, for an engine that `takes_files`; None:
        none, or it cannot be told."""
        return None

    def _refuse_ours(self, spec: ServerSpec) -> None:
        """The last line of defence: a recipe file with one of these is refused when it is read."""
        for name in spec.serve:
            if ours := self.flags.our_flag(name):
                raise GpubenchError(f"serve.{name} is not a recipe's to set: {ours[1]}")
        wrong = self.flags.words_error(spec.extra_args)
        if wrong:
            raise GpubenchError(f"serve.extra-args {wrong}")
        if self.key_variable in spec.env:
            raise GpubenchError(
                f"env.{self.key_variable} is set by gpubench itself, a new one for every launch: "
                "remove it from the recipe."
            )
