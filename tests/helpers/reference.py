"""Hugging Face in torch, float32, one prompt at a time: the oracle for every exit.

Truncation there is exact: set `num_hidden_layers` to the exit. Needs torch.
"""

import copy

import numpy as np


def hf_model(raw: dict, tensors: dict):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    # A copy: transformers writes into what it is given.
    settings = copy.deepcopy({k: v for k, v in raw.items() if k != "model_type"})
    config = AutoConfig.for_model(raw["model_type"], **settings)
    wrapped = "text_config" in raw
    model = (AutoModelForImageTextToText if wrapped else AutoModelForCausalLM).from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    if raw["model_type"] == "phi3":
        tensors = fused(tensors)
    if wrapped:
        tensors = {n.replace("model.", "model.language_model."): t for n, t in tensors.items()}
    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    missing = {n for n in missing if not n.startswith(("model.vision_", "model.multi_modal_"))}
    assert missing <= {"lm_head.weight"}, missing
    return model.eval()


def fused(tensors: dict) -> dict:
    """Tensors of a model as Phi-3 stores them: several matrices one below the other."""
    whole = {}
    for name, array in tensors.items():
        for part, together in (
            ("q_proj", ("q_proj", "k_proj", "v_proj", "qkv_proj")),
            ("gate_proj", ("gate_proj", "up_proj", "gate_up_proj")),
        ):
            if f".{part}." in name:
                parts = [tensors[name.replace(part, other)] for other in together[:-1]]
                whole[name.replace(part, together[-1])] = np.concatenate(parts)
        if not any(f".{part}_proj." in name for part in ("q", "k", "v", "gate", "up")):
            whole[name] = array
    return whole


def hf_exit_logits(model, tokens, lengths, exits) -> np.ndarray:
    """Float32 [E B V]: logits at each prompt's last position, `exits` layers run."""
    import torch

    config = model.config.get_text_config()
    depth = config.num_hidden_layers
    out = []
    try:
        for exit in exits:
            config.num_hidden_layers = int(exit)
            rows = []
            for row, length in zip(np.asarray(tokens), lengths, strict=True):
                with torch.no_grad():
                    logits = model(torch.tensor(row[None, :length]), use_cache=False).logits
                rows.append(logits[0, -1].numpy())
            out.append(rows)
    finally:
        config.num_hidden_layers = depth
    return np.array(out, np.float32)


def hf_generate(model, tokens, lengths, exits, new_tokens: int) -> np.ndarray:
    """Greedy tokens [B E T] of Hugging Face's own `generate`, with its cache."""
    import torch

    depth, end = model.config.num_hidden_layers, model.generation_config.eos_token_id
    decoded = np.zeros((len(lengths), len(exits), new_tokens), np.int64)
    try:
        model.generation_config.eos_token_id = None
        for e, exit in enumerate(exits):
            model.config.num_hidden_layers = int(exit)
            for b, (row, length) in enumerate(zip(np.asarray(tokens), lengths, strict=True)):
                ids = torch.tensor(row[None, :length])
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=new_tokens,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=0,
                )
                decoded[b, e] = out[0, length:].numpy()
    finally:
        model.config.num_hidden_layers, model.generation_config.eos_token_id = depth, end
    return decoded
