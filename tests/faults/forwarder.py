"""Joins two TUN devices, each in a network namespace of its own, by a line that takes its time.

Arguments: seconds of delay each way, seconds of jitter on top of it, and twice NAMESPACE=ADDRESS. Nothing is
lost but what the queue of a device can not hold, and nothing overtakes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import selectors
import struct
import sys
import time
from collections import deque

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
PACKET_BYTES = 65536


def open_device(namespace: str) -> int:
    """A new TUN device named tun0 in that namespace, as a descriptor of its packets."""
    with open(f"/run/netns/{namespace}") as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    return descriptor


def main() -> None:
    delay, jitter = float(sys.argv[1]), float(sys.argv[2])
    chance = random.Random(1)
    ends = [open_device(argument.partition("=")[0]) for argument in sys.argv[3:5]]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    # By the end that they go to, each with the time when it may.
    under_way: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
    selector = selectors.DefaultSelector()
    for end in ends:
        selector.register(end, selectors.EVENT_READ)
    print("ready", flush=True)  # noqa: T201
    while True:
        first = min((packets[0][0] for packets in under_way.values() if packets), default=None)
        for key, _ in selector.select(None if first is None else max(0.0, first - time.monotonic())):
            packets = under_way[other[key.fd]]
            due = time.monotonic() + delay + chance.uniform(0.0, jitter)
            if packets:
                due = max(due, packets[-1][0])
            packets.append((due, os.read(key.fd, PACKET_BYTES)))
        now = time.monotonic()
        for end, packets in under_way.items():
            while packets and packets[0][0] <= now:
                try:
                    os.write(end, packets.popleft()[1])
                except OSError:
                    # The device is down.
                    pass


if __name__ == "__main__":
    main()
