"""PyInstaller's hook: the JavaScript client and the demo's page, which are no code, belong to the package."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("sockrpc", includes=["js/*", "page/*"])
