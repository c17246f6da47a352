"""Process settings that make XLA fast on a CPU, and exact and repeatable on a GPU.

Only programs use them. A library that sets them on import would change its user's process.
"""

import ctypes
import importlib.metadata
import os
import sys

import jax

# Only jaxlib 0.10.2 sends some convolutions to YNNPACK, which is 3 to 5 times slower than Eigen.
# Other versions may not know the flag, and an unknown flag aborts the process.
YNNPACK_OFF = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# With this flag, the same seed gives the same rows on a GPU too.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

# Parameters of glibc's mallopt. By default, glibc returns large temporaries to the system at every
# step, which costs 20-40% of a small network's time.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def tune_process() -> None:
    """Applies the settings. A second call changes nothing.

    A program must call it before its first computation: the flags have no effect once jax has
    started its backend.
    """
    flags = [DETERMINISTIC]
    if importlib.metadata.version("jaxlib") == "0.10.2":
        flags.append(YNNPACK_OFF)
    given = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in flags if flag.split("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
    # Use full float32 products: TF32 on recent GPUs blurs the small margins where attacks end.
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # for child processes
        jax.config.update("jax_default_matmul_precision", "highest")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(M_ARENA_MAX, 1)
