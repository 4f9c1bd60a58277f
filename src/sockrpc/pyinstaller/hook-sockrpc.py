"""PyInstaller's hook: the JavaScript client and the demo's page, which are no code, belong to the package."""

# mypy: disable-error-code="import-untyped,import-not-found"

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("sockrpc", includes=["js/*", "demo/*"])
