"""The doctor's one edge: it reads config.json and looks for a chat template in folders that it is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gpubench.model.failures import GpubenchError

_LARGEST = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class ModelConfigs:
    """What the folders of a model and its draft say; None: not known."""

    target: Mapping[str, Any] | None = None
    draft: Mapping[str, Any] | None = None
    chat_template: bool | None = None


def read_model_configs(target: Path | None, draft: Path | None = None) -> ModelConfigs:
    """Read the config.json of a model and of its draft, and whether the model's folder holds a chat template.

    A folder is a local model or a snapshot in the Hugging Face cache. Where a folder is None or has no config.json, the answer is
    None; the chat template is unknown where the tokenizer's files are not there.

    Raises:
        GpubenchError: if a config.json is there and cannot be read as a JSON object.
    """
    return ModelConfigs(
        target=_config(target) if target is not None else None,
        draft=_config(draft) if draft is not None else None,
        chat_template=_chat_template(target) if target is not None else None,
    )


def _config(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "config.json"
    return _json_object(path) if path.is_file() else None


def _chat_template(folder: Path) -> bool | None:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return bool(_json_object(path).get("chat_template")) if path.is_file() else None


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise GpubenchError(
                f"{path} is larger than {_LARGEST // 1024**2} MiB and no model's description: put the right file there."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GpubenchError(f"{path} cannot be read ({error.strerror}): give access to it or fetch the model again.") from None
    except (ValueError, RecursionError) as error:
        raise GpubenchError(f"{path} is not JSON ({error}): fetch the model again.") from None
    if not isinstance(value, dict):
        raise GpubenchError(f"{path} holds no JSON object: fetch the model again.")
    return value
