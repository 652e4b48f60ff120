"""llama.cpp's own HTTP server, as shipped by PyPI's xllamacpp, in its own process: a peer of our engine.

    python -m lab.peers.llama_server --model file.gguf --slots 4 --context-tokens 2048 --threads 2 --port 8090

Requires no package except xllamacpp. The server runs until SIGTERM or SIGINT, or until its parent process has exited.
"""

import argparse
import importlib
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
CELLS_STEP = 256  # llama.cpp rounds a slot's context up to a multiple of this
PARENT_POLL_S = 0.5
# How often OpenMP threads spin at a barrier before they sleep; equal to OPENMP_SPINS of our engine.
SPINS = "1000"
WARNINGS = 2


@dataclass(frozen=True)
class ServerSettings:
    """Settings of llama.cpp's server. Prompt cache and continuous batching are always on, flash attention is `auto`.

    `context_tokens`: KV cells of all slots together; `kv_unified`: one pool of cells instead of an equal share per
    slot; `host_cache_mib`: memory limit for prompts evicted from slots, 0 for none (8192 is the server's default);
    `reuse_tokens`: length of the shortest piece of an earlier prompt that is reused at another position, 0 to disable
    such reuse (the results then differ from those without reuse).
    """

    model: Path
    slots: int
    context_tokens: int
    threads: int = 2
    kv_unified: bool = False
    host_cache_mib: int = 8192
    reuse_tokens: int = 0
    micro_batch_tokens: int = 512

    def arguments(self, *, port: int) -> list[str]:
        """The command line that `read_arguments` reads back."""
        numbers = {
            "slots": self.slots,
            "context-tokens": self.context_tokens,
            "threads": self.threads,
            "host-cache-mib": self.host_cache_mib,
            "reuse-tokens": self.reuse_tokens,
            "micro-batch-tokens": self.micro_batch_tokens,
            "port": port,
        }
        unified = "--kv-unified" if self.kv_unified else "--no-kv-unified"
        return ["--model", str(self.model), unified, *(f"--{name}={number}" for name, number in numbers.items())]


def context_for(slots: int, *, request_tokens: int) -> int:
    """KV cells that are enough for a request of up to `request_tokens` (prompt and answer) in every slot."""
    return slots * -(-request_tokens // CELLS_STEP) * CELLS_STEP


def read_arguments(arguments: Sequence[str] | None = None) -> tuple[ServerSettings, int]:
    """(settings, port) of a command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.peers.llama_server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--slots", type=int, required=True, help="requests at a time")
    parser.add_argument("--context-tokens", type=int, required=True, help="KV cells of all slots together")
    parser.add_argument("--threads", type=int, default=ServerSettings.threads)
    parser.add_argument("--kv-unified", action=argparse.BooleanOptionalAction, default=ServerSettings.kv_unified)
    parser.add_argument("--host-cache-mib", type=int, default=ServerSettings.host_cache_mib)
    parser.add_argument("--reuse-tokens", type=int, default=ServerSettings.reuse_tokens)
    parser.add_argument("--micro-batch-tokens", type=int, default=ServerSettings.micro_batch_tokens)
    parser.add_argument("--port", type=int, required=True)
    given = vars(parser.parse_args(arguments))
    port: int = given.pop("port")
    return ServerSettings(**given), port


def server_parameters(xllamacpp: Any, settings: ServerSettings, *, port: int) -> Any:
    """xllamacpp's CommonParams for these settings."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(settings.model)
    parameters.hostnames = [HOST]
    parameters.port = port
    parameters.n_parallel = settings.slots
    parameters.n_ctx = settings.context_tokens
    parameters.kv_unified = settings.kv_unified
    parameters.cpuparams.n_threads = settings.threads
    parameters.cpuparams_batch.n_threads = settings.threads
    parameters.n_ubatch = settings.micro_batch_tokens
    parameters.cont_batching = True
    parameters.cache_prompt = True
    parameters.cache_ram_mib = settings.host_cache_mib
    parameters.n_cache_reuse = settings.reuse_tokens
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO
    parameters.fit_params = False  # it would change the context size
    parameters.ctx_shift = False
    parameters.verbosity = WARNINGS
    return parameters


def wait_for_exit() -> None:
    """Return at SIGTERM or SIGINT, or once the parent process has exited."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    parent = os.getppid()
    while not ended.wait(PARENT_POLL_S) and os.getppid() == parent:
        pass


def main() -> None:
    """Serve."""
    settings, port = read_arguments()
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # libgomp reads it when it is loaded, so it is set before the import
    xllamacpp = importlib.import_module("xllamacpp")
    server = xllamacpp.Server(server_parameters(xllamacpp, settings, port=port))
    print(f"{xllamacpp.__name__} {xllamacpp.__version__} serves {settings} on {server.listening_address}", flush=True)
    print(xllamacpp.get_system_info(), flush=True)
    wait_for_exit()


if __name__ == "__main__":
    main()
