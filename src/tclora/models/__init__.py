"""The door to transformers: one frozen base model, its prompts, its losses and answers, adapters hooked on."""

from tclora.models.base import BUNDLED, BUNDLED_NAME, Base, bundled_base_path, load_base, local_base_path
from tclora.models.branches import RowScore, score_continuations, shares_past, useful_prefix
from tclora.models.completion import Completion, complete_prompts
from tclora.models.entropy import scored_everywhere, token_entropies
from tclora.models.fingerprint import base_files_digest, edges_digest
from tclora.models.generation import greedy_answers
from tclora.models.hidden import mean_hidden_states
from tclora.models.hooks import attached
from tclora.models.inputs import module_inputs
from tclora.models.peft_forward import ForwardCheck, compare_forward, forward_class
from tclora.models.scoring import (
    TokenBatch,
    batches_by_length,
    collate,
    max_pass_tokens,
    response_losses,
    token_losses,
)
from tclora.models.targets import attention_targets, resolve_targets
from tclora.models.template import ExampleLike, Template
from tclora.models.tokens import (
    Tokens,
    prompt_text,
    tokenize_example,
    tokenize_pair,
    tokenize_plain,
    tokenize_prompt,
    tokenize_start,
    tokenize_text,
)
from tclora.models.weighted_hooks import WeightsOf, attached_together

__all__ = [
    "BUNDLED",
    "BUNDLED_NAME",
    "Base",
    "Completion",
    "ExampleLike",
    "ForwardCheck",
    "RowScore",
    "Template",
    "TokenBatch",
    "Tokens",
    "WeightsOf",
    "attached",
    "attached_together",
    "attention_targets",
    "base_files_digest",
    "batches_by_length",
    "bundled_base_path",
    "collate",
    "compare_forward",
    "complete_prompts",
    "edges_digest",
    "forward_class",
    "greedy_answers",
    "load_base",
    "local_base_path",
    "max_pass_tokens",
    "mean_hidden_states",
    "module_inputs",
    "prompt_text",
    "resolve_targets",
    "response_losses",
    "score_continuations",
    "scored_everywhere",
    "shares_past",
    "token_entropies",
    "token_losses",
    "tokenize_example",
    "tokenize_pair",
    "tokenize_plain",
    "tokenize_prompt",
    "tokenize_start",
    "tokenize_text",
    "useful_prefix",
]
