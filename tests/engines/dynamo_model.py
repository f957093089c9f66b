"""The tiny Llama with a tokenizer, which Dynamo's frontend needs: `dynamo_model.py FOLDER`.

Each byte of a text is a token; the other ids of the vocabulary, which a model with random weights
generates as often, are words that no text is cut into. Run with an engine's Python.
"""

from __future__ import annotations

import sys

from tests.engines.tiny_model import make

SPECIAL = ("<s>", "</s>", "<pad>")
VOCABULARY = 2048  # of the model


def add_tokenizer(folder: str) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"\u0120w{i}" for i in range(len(words), VOCABULARY)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = dict(zip(("bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1], 0)
    add_tokenizer(sys.argv[1])
