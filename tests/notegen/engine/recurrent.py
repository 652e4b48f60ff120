"""A tiny Mamba with random weights as a GGUF: its texts are nonsense, but its memory is recurrent.

Its SentencePiece vocabulary has all bytes, the letters, and a few words prefixed with the space marker.
"""

from pathlib import Path

import gguf
import numpy as np

NAME = "drawn-mamba"
LAYERS, WIDTH, INNER, KERNEL, STATE, RANK = 2, 32, 64, 4, 16, 2
TRAINED_CONTEXT = 2048
# 32-bit numbers that llama.cpp stores per sequence: the window of the convolution, and the state.
STATE_BYTES = LAYERS * ((KERNEL - 1) * INNER + STATE * INNER) * 4
PIECES = ["\u2581", *"abcdefghijklmnopqrstuvwxyz.", "\u2581the", "\u2581lesion", "\u2581is", "\u2581a"]


def write_mamba(path: Path, *, seed: int = 0) -> Path:
    """Write the model; the same seed gives the same weights."""
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.MAMBA])
    writer.add_name(NAME)
    writer.add_context_length(TRAINED_CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(LAYERS)
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = _add_vocabulary(writer)
    for name, values in _weights(tokens, np.random.default_rng(seed)).items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> int:
    kind = gguf.TokenType
    control = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    raw = [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    pieces = [(piece, kind.NORMAL) for piece in PIECES]
    tokens = [*control, *raw, *pieces]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_scores([-float(len(tokens) - len(text)) for text, _ in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return len(tokens)


def _weights(tokens: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Tensors by llama.cpp's names, shapes [out, in]."""
    tensors = {
        "token_embd.weight": draw.normal(size=(tokens, WIDTH)),
        "output_norm.weight": np.ones(WIDTH),
        # Not tied to the embedding, which would make the last token the likeliest next one. Logits spread by about 2.
        "output.weight": 2 * draw.normal(size=(tokens, WIDTH)) / WIDTH**0.5,
    }
    for layer in range(LAYERS):
        drawn = {
            "attn_norm.weight": np.ones(WIDTH),
            "ssm_in.weight": draw.normal(size=(2 * INNER, WIDTH)) / WIDTH**0.5,
            "ssm_conv1d.weight": draw.normal(size=(INNER, KERNEL)) / KERNEL**0.5,
            "ssm_conv1d.bias": np.zeros(INNER),
            "ssm_x.weight": draw.normal(size=(RANK + 2 * STATE, INNER)) / INNER**0.5,
            "ssm_dt.weight": draw.normal(size=(INNER, RANK)) / RANK**0.5,
            "ssm_dt.bias": np.full(INNER, -2.0),
            "ssm_a": -np.tile(np.arange(1, STATE + 1), (INNER, 1)),
            "ssm_d": np.ones(INNER),
            "ssm_out.weight": draw.normal(size=(WIDTH, INNER)) / INNER**0.5,
        }
        tensors |= {f"blk.{layer}.{name}": values for name, values in drawn.items()}
    return tensors
