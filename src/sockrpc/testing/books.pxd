# Nothing for other modules: what it has is called from Python.
