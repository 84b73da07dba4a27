"""Which GPUs this process may use, without initialising CUDA."""

import itertools
import os


def visible_gpus() -> list[str]:
    """Ids as CUDA_VISIBLE_DEVICES understands them, in its order; empty without a driver."""
    declared = os.environ.get("CUDA_VISIBLE_DEVICES")
    if declared is not None:
        named = [part.strip() for part in declared.split(",")]
        return [part for part in itertools.takewhile(lambda part: part != "-1", named) if part]  # as CUDA reads it
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
