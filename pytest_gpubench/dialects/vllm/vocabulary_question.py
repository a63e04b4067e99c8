"""What an installed vLLM is asked for the names that it takes: a program for its interpreter."""

QUESTION = """
import json, typing
import vllm.envs
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser
[serve] = cmd_init()
# what argparse looks words up in: spellings that help does not show are in it, too
options = serve.subparser_init(FlexibleArgumentParser().add_subparsers())._option_string_actions
flags = [word[2:] for word in options if word.startswith("--")]
choices = {
    word[2:]: [str(choice) for choice in action.choices]
    for word, action in options.items()
    if word.startswith("--") and action.choices and action.nargs is None
}
def also(flag, names):
    try:
        choices[flag] = sorted(names())
    except Exception:  # it lives elsewhere in this version: nothing is said of such names
        pass
def attention():
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    return AttentionBackendEnum.__members__
def quantization():
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    return QUANTIZATION_METHODS
def cache():
    from vllm.config.cache import CacheDType
    return typing.get_args(CacheDType)
also("attention-backend", attention)
also("quantization", quantization)
also("kv-cache-dtype", cache)
variables = sorted(vllm.envs.environment_variables)
print()
print(json.dumps({"flags": sorted(flags), "variables": variables, "choices": choices}))
"""
