# Memory of buffers: nothing here is for Python.
