# Masking of frames has no Python interface.
