"""A tiny Llama with random weights, for engines on the CPU: `tiny_model.py FOLDER SEED [WIDTH]`.

It has no tokenizer: the tests speak in token ids. Run with an engine's Python.
"""

from __future__ import annotations

import sys


def make(folder: str, seed: int, hidden: int = 512) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
        initializer_range=0.08,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]), *(int(said) for said in sys.argv[3:]))
