"""Takes all free memory of the first visible GPU when told to (a line on standard input), and gives
it back when the input ends."""

from __future__ import annotations

import ctypes
import sys

_CHUNKS = (1 << 30, 1 << 26, 1 << 21)


def main() -> None:
    """Make a context, wait for the word, fill the GPU from large pieces to small ones, wait for the
    end."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(cuda.cuInit(0), "cuInit")
    _check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    _check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    _check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    taken, pointer = 0, ctypes.c_uint64()
    for chunk in _CHUNKS:
        while cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(chunk)) == 0:
            taken += chunk
    print(f"{taken / 2**30:.2f} GiB", flush=True)
    sys.stdin.read()


def _check(code: int, name: str) -> None:
    if code:
        raise SystemExit(f"{name} gave {code}")


if __name__ == "__main__":
    main()
