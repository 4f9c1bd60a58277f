"""PyInstaller's hook, which adds the files that are not code: the JavaScript client and the demo's page."""

# mypy: disable-error-code="import-untyped,import-not-found"

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("sockrpc", includes=["js/*", "demo/*"])
