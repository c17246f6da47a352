"""Settings of the process that make XLA fast on a CPU, and exact and repeatable on a GPU. For
programs only: a library that set them on import would change its user's process."""

import ctypes
import importlib.metadata
import os
import sys

import jax

# jaxlib 0.10.2 alone sends some convolutions to YNNPACK, 3 to 5 times slower than Eigen. Other
# versions may not know the flag, and an unknown flag aborts the process.
YNNPACK_OFF = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# The same seed gives the same rows on a GPU too.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

# glibc: mallopt parameters and the values that stop it from handing large temporaries back to
# the system at every step, which costs 20-40% of a small network's time.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def tune_process() -> None:
    """Sets them. Called by a program's main, before its first computation: once jax has started its
    backend, the flags have no effect. Calling it again changes nothing."""
    flags = [DETERMINISTIC]
    if importlib.metadata.version("jaxlib") == "0.10.2":
        flags.append(YNNPACK_OFF)
    given = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
    # Full float32 products: the TF32 of recent GPUs blurs the margins that attacks end on.
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # for processes that are started
        jax.config.update("jax_default_matmul_precision", "highest")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_ARENA_MAX, 1)
