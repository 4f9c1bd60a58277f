# For Python only: see the stub.
