"""A table of adapters that are damaged, hostile or not plain LoRAs: how to build each, and what its refusal says."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from adapter_files import PATHS, PREFIX, linear_names, save_adapter, save_raw, tensors

Q0_A, Q0_B = linear_names(PATHS[0])
BOMB = r"(a|aa)+(a|aa)+(a|aa)+(a|aa)+!"


def extra(name: str, tensor: torch.Tensor | None = None) -> Callable[[Path], None]:
    return lambda folder: (
        save_adapter(folder, {**tensors(), name: torch.ones(5) if tensor is None else tensor}) and None
    )


def replaced(name: str, tensor: torch.Tensor | None) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        made = {**tensors(), name: tensor}
        save_adapter(folder, {key: value for key, value in made.items() if value is not None})

    return build


def config(**fields: object) -> Callable[[Path], None]:
    return lambda folder: save_adapter(folder, **fields) and None


def poked(name: str, value: float) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        made = tensors()
        made[name][1, 0] = value
        save_adapter(folder, made)

    return build


def config_text(change: Callable[[str], str]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        file = save_adapter(folder) / "adapter_config.json"
        file.write_text(change(file.read_text()))

    return build


def weights_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        file = save_adapter(folder) / "adapter_model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return build


def instead_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else where a file should be."""

    def build(folder: Path) -> None:
        (save_adapter(folder) / name).unlink()
        make(folder / name)

    return build


def pickle_only(folder: Path) -> None:
    (save_adapter(folder) / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def empty_tensors(count: int) -> Callable[[Path], None]:
    entries = {f"{PREFIX}m{i}.lora_A.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(3)}
    one = ",".join(json.dumps({k: v})[1:-1] for k, v in entries.items())

    def build(folder: Path) -> None:
        names = ",".join(
            one.replace('.m"', "").replace("m0", f"a{i}").replace("m1", f"b{i}").replace("m2", f"c{i}")
            for i in range(count // 3)
        )
        save_raw(folder, ("{" + names + "}").encode())

    return build


def overlapping(folder: Path) -> None:
    entry_a = {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]}
    entry_b = {"dtype": "F32", "shape": [6, 2], "data_offsets": [0, 48]}
    save_raw(folder, json.dumps({Q0_A: entry_a, Q0_B: entry_b}).encode(), bytes(48))


def twice(folder: Path) -> None:
    entry = '{"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]}'
    save_raw(folder, f'{{"{Q0_A}": {entry}, "{Q0_A}": {entry}}}'.encode(), bytes(48))


HUGE = torch.full((5, 2), 3e38)
BAD = {
    # what the numbers are
    "nan": (poked(Q0_A, float("nan")), r"q_proj\.lora_A\.weight holds values that are not finite(?s:.)*\[1, 0\]"),
    "nan in B": (poked(Q0_B, float("nan")), r"q_proj\.lora_B\.weight holds values that are not finite"),
    "inf": (poked(Q0_B, float("-inf")), r"q_proj\.lora_B\.weight holds values that are not finite(?s:.)*-inf"),
    "product overflows": (replaced(Q0_B, HUGE), "overflows float32"),
    "scaling overflows": (config(lora_alpha=1e38), "overflows float32"),
    "int32": (replaced(Q0_A, torch.ones(2, 6, dtype=torch.int32)), r"q_proj\.lora_A.*(?s:.)*I32"),
    "bool": (replaced(Q0_A, torch.ones(2, 6, dtype=torch.bool)), "dtype BOOL"),
    "float8": (replaced(Q0_A, torch.ones(2, 6).to(torch.float8_e4m3fn)), "dtype F8_E4M3"),
    # what the tensors are
    "wrong shape": (replaced(Q0_B, torch.ones(5, 3)), r"self_attn\.q_proj(?s:.)*\(2, 6\)(?s:.)*\(5, 3\)"),
    "transposed": (replaced(Q0_A, torch.ones(6, 2)), "self_attn.q_proj"),
    "rank differs from config": (config(r=4), r"q_proj is not that of the config(?s:.)*rank 2(?s:.)*rank 4"),
    "rank pattern differs": (config(rank_pattern={"q_proj": 8}), r"rank_pattern\['q_proj'\]"),
    "no partner": (replaced(Q0_B, None), r"q_proj\.lora_A\.weight(?s:.)*one factor without the other"),
    "vector": (replaced(Q0_A, torch.ones(2)), "self_attn.q_proj"),
    "zero size": (replaced(Q0_A, torch.ones(2, 0)), "sizes of 1 or more"),
    "convolution": (replaced(Q0_A, torch.ones(2, 6, 3, 3)), "LoRA of a convolution"),
    "experts": (replaced(Q0_A, torch.ones(4, 2, 6)), "self_attn.q_proj"),
    "no tensors": (lambda folder: save_adapter(folder, {}) and None, "the adapter is empty"),
    "dora": (extra(PREFIX + PATHS[0] + ".lora_magnitude_vector"), "DoRA magnitude"),
    "lora bias": (extra(PREFIX + PATHS[0] + ".lora_B.bias"), "lora_bias"),
    "full tensor": (extra(PREFIX + "lm_head.weight"), "lm_head.weight(?s:.)*full tensor"),
    "trained tokens": (extra(PREFIX + "embed_tokens.token_adapter.trainable_tokens_delta"), "trained tokens"),
    "kasa diagonal": (extra(PREFIX + PATHS[0] + ".lora_diag"), "KaSA"),
    "packed parameters": (extra(PREFIX + "mlp.experts.base_layer.lora_A.weight"), "target_parameters"),
    "no prefix": (extra("model.q_proj.lora_A.weight"), "does not begin with base_model.model."),
    "two adapter names": (
        lambda folder: (
            save_adapter(
                folder,
                {
                    k.replace("A.weight", "A.one.weight").replace("B.weight", "B.two.weight"): v
                    for k, v in tensors().items()
                },
            )
            and None
        ),
        "several adapters(?s:.)*'one', 'two'",
    ),
    "the same factor twice": (extra(PREFIX + PATHS[0] + ".lora_A.default.weight", torch.ones(2, 6)), "second tensor"),
    "dots in a name": (extra(PREFIX + "../../etc.lora_A.weight"), "not a module path"),
    "slash in a name": (extra(PREFIX + "a/b.lora_A.weight"), "not a module path"),
    "long name": (extra(PREFIX + "a" * 9000 + ".lora_A.weight"), "not a module path"),
    "escapes in a name": (extra(PREFIX + "\x1b]0;owned\x07.lora_A.weight"), r"\\x1b\]0;owned\\x07"),
    "newline in a name": (extra(PREFIX + "a\nb.lora_A.weight"), r"the tensor name '.*a\\nb\.lora_A\.weight'"),
    # what the file is
    "truncated": (weights_bytes(lambda raw: raw[:-7]), "damaged(?s:.)*truncated"),
    "truncated in the header": (weights_bytes(lambda raw: raw[:100]), "damaged(?s:.)*header"),
    "empty file": (weights_bytes(lambda raw: b""), "damaged"),
    "bytes after the end": (weights_bytes(lambda raw: raw + b"x"), "damaged"),
    "header of 2^62": (weights_bytes(lambda raw: (2**62).to_bytes(8, "little") + raw[8:]), "4611686018427387904"),
    "header is not JSON": (lambda folder: save_raw(folder, b"[" * 50) and None, "not strict JSON"),
    "header is nested": (lambda folder: save_raw(folder, b"[" * 200_000) and None, "nested too deeply"),
    "header is a list": (lambda folder: save_raw(folder, b"[]      ") and None, "not a JSON object"),
    "200,000 empty tensors": (empty_tensors(200_000), "more than 100000 tensors"),
    "9,000 empty tensors": (empty_tensors(9_000), "lora_A"),
    "metadata bomb": (
        lambda folder: (
            save_raw(folder, b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(3_000_000)) + b"}}")
            and None
        ),
        "more than 100000 tensors",
    ),
    "shape of strings": (
        lambda folder: save_raw(folder, b'{"a":{"dtype":"F32","shape":["x"],"data_offsets":[0,0]}}') and None,
        "shape",
    ),
    "negative offsets": (
        lambda folder: save_raw(folder, b'{"a":{"dtype":"F32","shape":[],"data_offsets":[-4,0]}}') and None,
        "bytes -4",
    ),
    "wrong length": (
        lambda folder: save_raw(folder, b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,0]}}') and None,
        "fit the shape",
    ),
    "overlapping tensors": (overlapping, "damaged"),
    "tensor twice": (twice, "is given twice"),
    "pickle": (pickle_only, "is a pickle(?s:.)*safe_serialization"),
    "pipe": (instead_of("adapter_model.safetensors", os.mkfifo), "named pipe"),
    "config is a pipe": (instead_of("adapter_config.json", os.mkfifo), "named pipe"),
    "device": (instead_of("adapter_model.safetensors", lambda path: path.symlink_to("/dev/zero")), "a device"),
    "dangling link": (instead_of("adapter_model.safetensors", lambda path: path.symlink_to("gone")), "leads nowhere"),
    "link to itself": (
        instead_of("adapter_config.json", lambda path: path.symlink_to(path.name)),
        "adapter_config.json",
    ),
    "a folder as weights": (instead_of("adapter_model.safetensors", Path.mkdir), "a folder"),
    "no weights": (instead_of("adapter_model.safetensors", lambda path: None), "adapter_model.safetensors is missing"),
    "no config": (instead_of("adapter_config.json", lambda path: None), "adapter_config.json is missing"),
    # what the config says
    "r = 0": (config(r=0), "r in adapter_config.json(?s:.)*found     0"),
    "r = -4": (config(r=-4), "r in adapter_config.json"),
    "r huge": (config(r=20_000_000), "rank 20000000"),
    "r is text": (config(r="2"), "r in adapter_config.json"),
    "r is true": (config(r=True), "r in adapter_config.json"),
    "r is a fraction": (config(r=2.0), "r in adapter_config.json"),
    "r is missing": (config(r=...), "r in adapter_config.json(?s:.)*nothing"),
    "alpha is missing": (config(lora_alpha=...), "lora_alpha"),
    "alpha is null": (config(lora_alpha=None), "lora_alpha"),
    "alpha is text": (config(lora_alpha="16"), "lora_alpha"),
    "alpha NaN": (config_text(lambda text: text.replace('"lora_alpha": 4', '"lora_alpha": NaN')), "NaN is not a JSON"),
    "alpha 1e400": (config_text(lambda text: text.replace('"lora_alpha": 4', '"lora_alpha": 1e400')), "lora_alpha"),
    "alpha 10^400": (
        config_text(lambda text: text.replace('"lora_alpha": 4', '"lora_alpha": 1' + "0" * 400)),
        "lora_alpha",
    ),
    "alpha of 10^5 digits": (
        config_text(lambda text: text.replace('"lora_alpha": 4', '"lora_alpha": ' + "1" * 100_000)),
        "adapter_config.json",
    ),
    "alpha twice": (config_text(lambda text: text[:-1] + ', "lora_alpha": 800}'), "'lora_alpha' is given twice"),
    "alpha pattern of text": (config(alpha_pattern={"q_proj": "8"}), "alpha_pattern"),
    "rank pattern is a list": (config(rank_pattern=["q_proj"]), "rank_pattern"),
    "rslora is text": (config(use_rslora="false"), "use_rslora"),
    "targets of numbers": (config(target_modules=[1, 2]), "target_modules"),
    "escapes in a target": (config(target_modules=["\x1b[2J"]), "target_modules"),
    "escapes in the base": (config(base_model_name_or_path="\x1b[2J"), "base_model_name_or_path"),
    "base is a list": (config(base_model_name_or_path=["a"]), "base_model_name_or_path"),
    "not JSON": (config_text(lambda text: text[:-5]), "adapter_config.json is not strict JSON"),
    "a list": (config_text(lambda text: "[1]"), "not a JSON object"),
    "not UTF-8": (
        instead_of("adapter_config.json", lambda path: path.write_bytes(b'{"r": "\xff"}')),
        "not strict JSON",
    ),
    "config of 5 MB": (config_text(lambda text: text + " " * 5_000_000), "too large"),
    "config nested": (config_text(lambda text: '{"r":' + "[" * 100_000), "adapter_config.json"),
    "ia3": (config(peft_type="IA3"), "not a LoRA adapter(?s:.)*IA3"),
    "no peft_type": (config(peft_type=...), "not a LoRA adapter"),
    "use_dora": (config(use_dora=True), "use_dora"),
    "lora_bias": (config(lora_bias=True), "lora_bias"),
    "bias": (config(bias="lora_only"), "bias cannot be represented"),
    "modules_to_save": (config(modules_to_save=["lm_head"]), "modules_to_save"),
    "trainable_token_indices": (config(trainable_token_indices=[1]), "trainable_token_indices"),
    "target_parameters": (config(target_parameters=["mlp.experts.up"]), "target_parameters"),
    "use_qalora": (config(use_qalora=True), "use_qalora"),
    "alora": (config(alora_invocation_tokens=[5]), "aLoRA"),
    "layer_replication": (config(layer_replication=[[0, 4]] * 100_000), "layer_replication(?s:.)*100000 entries"),
    "megatron": (config(megatron_config={"a": 1}), "megatron_config"),
    "megatron_core": (config(megatron_core="evil.module"), "megatron_core"),
    "kasa": (config(kasa_config={"beta": 1}), "kasa_config"),
    "bdlora": (config(use_bdlora={"nblocks": 2}), "use_bdlora"),
    "velora": (config(velora_config={"num_groups": 2}), "velora_config"),
    "monteclora": (config(monteclora_config={"num_samples": 2}), "monteclora_config"),
    "arrow": (config(arrow_config={"top_k": 2}), "arrow_config"),
    **{
        init: (config(init_lora_weights=init), f"{init}.* changed the base weights")
        for init in ("pissa", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq", "PiSSA")[:-1]
    },
    "init unknown": (config(init_lora_weights="brandnew"), "brandnew is not known"),
    "setting unknown": (config(use_future=True), "use_future is not known"),
    "tied": (
        lambda folder: (
            save_adapter(
                folder,
                {
                    PREFIX + "embed_tokens.lora_embedding_A": torch.ones(2, 9),
                    PREFIX + "embed_tokens.lora_embedding_B": torch.ones(4, 2),
                },
                ensure_weight_tying=True,
            )
            and None
        ),
        "tied to the output layer",
    ),
    "regex bomb": (config(rank_pattern={BOMB: 2}, target_modules=["q_proj"]), None),
    "alternation bomb": (config(alpha_pattern={"(a|a)" * 700 + "!": 2}), None),
    "nested stars": (config(alpha_pattern={"((((((((.*)*)*)*)*)*)*)*)*!": 2}), None),
    "back reference": (config(alpha_pattern={r"(a)\1": 2}), r"pattern cannot be used(?s:.)*\\1"),
    "invalid regex": (config(alpha_pattern={"(q_proj": 2}), "pattern cannot be used"),
    "repeat bomb": (config(alpha_pattern={"((a{1000}){1000}){1000}": 2}), None),
}

# Those whose cost, not their content, is what is refused.
HEAVY = [
    name
    for name in BAD
    if any(word in name for word in ("bomb", "tensors", "pipe", "nested", "huge", "device", "replication"))
]
