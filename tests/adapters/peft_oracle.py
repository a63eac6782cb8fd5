"""Tiny models of several families built from their configs, and PEFT's own answers about them."""

import torch


def tiny_model(family: str) -> torch.nn.Module:
    # The weights are those of one seed: how far bf16 rounding moves logits depends on them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _model(family)


def _model(family: str) -> torch.nn.Module:
    import transformers as tf

    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        config = tf.GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2
        )
        return tf.GPT2LMHeadModel(config)
    kinds = {
        "llama": (tf.LlamaConfig, tf.LlamaForCausalLM),
        "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM),
        "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM),
        "phi3": (tf.Phi3Config, tf.Phi3ForCausalLM),
    }
    config_class, model_class = kinds[family]
    if family == "phi3":
        sizes.pop("head_dim")
    return model_class(config_class(**sizes))


def trained(model: torch.nn.Module, **config: object) -> torch.nn.Module:
    """The model with a LoRA whose tensors are all random; PEFT starts lora_B at zero."""
    import peft

    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **config}))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return wrapped.eval()


def peft_deltas(wrapped: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = module.get_delta_weight("default").detach()
            found[name] = delta.T if getattr(module, "fan_in_fan_out", False) else delta
    return found
