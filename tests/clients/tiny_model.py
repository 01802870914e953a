"""A language model of a hundred thousand random numbers, as llama.cpp's files have it."""

from __future__ import annotations

from pathlib import Path

import numpy
from gguf import GGUFWriter, LlamaFileType, TokenType

CONTEXT = 2048
"""Tokens of a conversation. A token is a byte."""

EMBEDDING = 64
"""Numbers of a vector."""

END = 2
CALL = 3
"""Tokens: the end of an answer, and the beginning of a tool call."""

_TOKENS = [
    (b"<unk>", TokenType.UNKNOWN),
    (b"<s>", TokenType.CONTROL),
    (b"</s>", TokenType.CONTROL),
    (b"<tool_call>", TokenType.USER_DEFINED),
    *((f"<0x{byte:02X}>".encode(), TokenType.BYTE) for byte in range(256)),
]
_LAYERS = 2
_HEADS = 4
_INNER = 128

# How conversations are written. From it llama.cpp learns how this model calls tools.
_TEMPLATE = """
{%- if tools %}<|im_start|>system
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
<tool_call>{"name": <function-name>, "arguments": <args-json-object>}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.tool_calls %}<|im_start|>assistant
{{ message.content or "" }}
{%- for call in message.tool_calls %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write(path: Path) -> None:
    """Write the model to a file; it is the same each time."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // _HEADS)
    writer.add_vocab_size(len(_TOKENS))
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in _TOKENS])
    writer.add_token_scores([0.0] * len(_TOKENS))
    writer.add_token_types([int(kind) for _, kind in _TOKENS])
    writer.add_add_space_prefix(False)  # the grammars of llama.cpp begin with what the template ends with
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_chat_template(_TEMPLATE)
    numbers = numpy.random.default_rng(1)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, (0.5 * numbers.standard_normal(shape)).astype(numpy.float32))

    def add_ones(name: str) -> None:
        writer.add_tensor(name, numpy.ones(EMBEDDING, numpy.float32))

    add("token_embd.weight", len(_TOKENS), EMBEDDING)
    add("output.weight", len(_TOKENS), EMBEDDING)
    add_ones("output_norm.weight")
    for layer in range(_LAYERS):
        add_ones(f"blk.{layer}.attn_norm.weight")
        add_ones(f"blk.{layer}.ffn_norm.weight")
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", EMBEDDING, EMBEDDING)
        add(f"blk.{layer}.ffn_gate.weight", _INNER, EMBEDDING)
        add(f"blk.{layer}.ffn_up.weight", _INNER, EMBEDDING)
        add(f"blk.{layer}.ffn_down.weight", EMBEDDING, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
