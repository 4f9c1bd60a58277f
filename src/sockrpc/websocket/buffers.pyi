# The memory of buffers has no Python interface.
