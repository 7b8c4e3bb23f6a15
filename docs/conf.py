"""Settings of the documentation site: Sphinx with Markdown pages. `scripts/docs` builds it."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "emb-provider"
author = "emb-provider"
(release,) = re.findall(r'^__version__ = "(.+)"', (ROOT / "provider" / "__init__.py").read_text(), re.MULTILINE)
version = release

extensions = ["myst_parser", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence"]
# Anchors as GitHub makes them, so that a link works there and here.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"emb-provider {release}"
html_static_path = ["pictures"]
# Nothing is loaded from elsewhere: system fonts, no analytics, search in the browser.
html_theme_options = {
    "light_css_variables": {
        "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif",
        "font-stack--monospace": "ui-monospace, 'Cascadia Code', Menlo, Consolas, monospace",
    },
    "navigation_with_keys": True,
}
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

# Files of the repository that are pages of the site too, by the page.
_BROUGHT = {
    "project/changelog": ROOT / "CHANGELOG.md",
    "project/contributing": ROOT / "CONTRIBUTING.md",
    "project/onnx": ROOT / "plugins" / "onnx" / "README.md",
    "project/openvino": ROOT / "plugins" / "openvino" / "README.md",
    "project/plugins": ROOT / "plugins" / "README.md",
    "project/security": ROOT / "SECURITY.md",
}
_PAGE_OF = {path: DOCS / f"{name}.md" for name, path in _BROUGHT.items()} | {ROOT / "README.md": DOCS / "index.md"}
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def _bring(_app: Sphinx, name: str, source: list[str]) -> None:
    """Fill the pages that stand elsewhere, and lead links to what is no page of the site to nowhere but their text."""
    page, origin = DOCS / f"{name}.md", _BROUGHT.get(name, DOCS / f"{name}.md")

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        found = Path(os.path.normpath(origin.parent / target))
        found = _PAGE_OF.get(found, found)
        if not found.exists():
            return match[0]  # Sphinx tells that it is broken
        if found == DOCS / "index.md":
            anchor = ""
        if DOCS not in found.parents:
            return text
        return f"[{text}]({os.path.relpath(found, page.parent)}{anchor})"

    text = origin.read_text(encoding="utf-8") if origin != page else source[0]
    source[0] = _LINK.sub(link, text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _bring)
