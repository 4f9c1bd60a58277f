"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import sockrpc

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

project = "sockrpc"
author = "the sockrpc authors"
release = version = sockrpc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "from_sources"]
exclude_patterns = ["_sphinx", "diagrams/*.py"]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4

# Docstrings write code as `code`.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Nothing is fetched from the network: what other projects document is named, and not linked.
OTHERS = [
    r"(_?asyncio|collections|contextlib|socket|socket_module|ssl|ssl_module|types|typing|websockets)\..*",
    r"(bool|bytearray|bytes|float|int|memoryview|object|optional|str|tuple|frozenset|None|Self|T|_T|_T_co)",
    r"([A-Z]\w*Error|Any|Awaitable|AsyncIterator|Callable|Coroutine|Exception|Literal|Mapping|NamedTuple)",
    r"(Request|Response|Sequence|SimpleNamespace|TypeVar|Unpack)",
    # Names of types that stand for others.
    r"(CompressionName|Headers|Origins|ProcessRequest|SocketHandler)",
    # The same classes under the names of private modules, and type variables.
    r"sockrpc\.(observe\.statistics|peer\.tally|testing\.joined)\.\w+",
    r"sockrpc\.app\.[A-Z]",
    # What attributes and methods return, with docstrings of their own there.
    r"sockrpc\.peer\.(items\.Items|metadata\.Metadata)",
]
nitpick_ignore_regex = [("py:.*", others) for others in OTHERS]

html_theme = "furo"
html_title = "sockrpc"
html_static_path = ["_static"]
html_css_files = ["sockrpc.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b57d0", "color-brand-content": "#0b57d0"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
# What a reader types, without the prompt and without what is printed.
copybutton_prompt_text = "$ "
