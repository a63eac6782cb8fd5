"""What PEFT, vLLM, SGLang and llama.cpp would refuse or ignore in an adapter: one file of rules per server."""

from tclora.adapters.serving import llama_cpp_rules, peft_rules, sglang_rules, vllm_rules
from tclora.adapters.serving.facts import ServingFacts, serving_facts
from tclora.adapters.serving.findings import Finding, Severity, Verdict, verdict_of
from tclora.adapters.serving.servers import SERVERS, RankLimit, check_limit, rank_limit, serving_findings

__all__ = [
    "SERVERS",
    "Finding",
    "RankLimit",
    "ServingFacts",
    "Severity",
    "Verdict",
    "check_limit",
    "llama_cpp_rules",
    "peft_rules",
    "rank_limit",
    "serving_facts",
    "serving_findings",
    "sglang_rules",
    "verdict_of",
    "vllm_rules",
]
