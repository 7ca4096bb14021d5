"""Small tokenizers of the kinds that Mistral-family models have, trained on a few sentences."""

import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from jaxdepth.prompts.datasets import read_prompts

TEXTS = [p.text for p in read_prompts(["builtin:pairs"])][:200]

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content|trim + "
    "' [/INST]' }}{% else %}{{ ' ' + m.content|trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
    "' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + "
    "m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(specials):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials,
        show_progress=False,
    )
    backend.train_from_iterator([*TEXTS, "I cannot do that. Sorry, no."], trainer)
    return backend


def sentencepiece(specials, legacy):
    """BPE with byte fallback, as converted from SentencePiece; legacy puts a space before all."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    backend.pre_tokenizer = pre_tokenizers.Metaspace()  # no piece spans a space
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    )
    backend.train_from_iterator([*TEXTS, *["I"] * 50], trainer)
    # The bytes are ordinary tokens; only the markers are control tokens. The merges can spell
    # "</s>", as those that are made from a SentencePiece vocabulary can.
    spec = json.loads(backend.to_str()) | {"added_tokens": []}
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    for step in (["<", "/"], ["</", "s"], ["</s", ">"])[::-1]:
        merges.insert(0, step)
        for token in (*step, "".join(step)):
            vocab.setdefault(token, len(vocab))
    backend = Tokenizer.from_str(json.dumps(spec))
    if legacy:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer, backend.pre_tokenizer = normalizers.Sequence(steps), None
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return backend


def wrap(backend, template, bos, eos, **more):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, bos_token=bos, eos_token=eos, **more
    )


def build(kind):
    sp = ["<unk>", "<s>", "</s>"]
    if kind == "mistral v0.1":
        return wrap(sentencepiece(sp, legacy=True), MISTRAL, "<s>", "</s>", unk_token="<unk>")
    if kind == "mistral v0.3":
        specials = [*sp, "[INST]", "[/INST]"]
        return wrap(sentencepiece(specials, legacy=False), MISTRAL, "<s>", "</s>")
    if kind == "mistral v0.3 legacy":
        specials = [*sp, "[INST]", "[/INST]"]
        return wrap(sentencepiece(specials, legacy=True), MISTRAL, "<s>", "</s>")
    if kind == "llama 2":
        return wrap(sentencepiece(sp, legacy=False), LLAMA2, "<s>", "</s>", unk_token="<unk>")
    if kind == "llama 3":
        specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        return wrap(byte_level(specials), LLAMA3, "<|begin_of_text|>", "<|eot_id|>")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return wrap(byte_level(specials), CHATML, "<|im_start|>", "<|im_end|>")


KINDS = ("mistral v0.1", "mistral v0.3", "mistral v0.3 legacy", "llama 2", "llama 3", "chatml")
