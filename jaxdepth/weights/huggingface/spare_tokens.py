"""Added tokens for which a model has no row, such as a padding token that training never used."""

import json

from jaxdepth.errors import InputError, listed
from jaxdepth.model import FastTokenizer


def without_spare_tokens(tokenizer: FastTokenizer, vocab_size: int, where: str) -> FastTokenizer:
    """A tokenizer without the added tokens that lie beyond a model's embedding.

    Their text is then ordinary text. With them it would have ids that the model cannot look up.

    Args:
        tokenizer: it is not changed.
        vocab_size: rows of the embedding.
        where: the tokenizer is from, for messages.

    Raises:
        InputError: a word of the vocabulary lies beyond, or a token that begins or ends texts, or
            that the chat template writes.
    """
    from tokenizers import Tokenizer  # heavy, as transformers is
    from transformers import PreTrainedTokenizerFast

    beyond = {token for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
    if not beyond:
        return tokenizer
    template = str(tokenizer.chat_template or "")
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    needed = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    missing = [t for t in sorted(beyond) if t not in added or t in needed or t in template]
    if missing:
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens, the model only {vocab_size}, "
            f"none for {listed(missing)}: they do not belong together"
        )
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in beyond]
    special = {
        name: [t for t in value if str(t) not in beyond] if isinstance(value, list) else value
        for name, value in tokenizer.special_tokens_map.items()
        if isinstance(value, list) or str(value) not in beyond
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **special,
    )
