# Masks of frames: nothing here is for Python.
