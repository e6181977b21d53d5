"""Find retired words in what people read: docstrings, comments, messages, pages, and the text of notebooks.

Run from the root of the repository; exit status 1 where a retired word is found:

    python .ci/words.py [FILE ...]

Code in backticks, links and code blocks are left out: names of functions and files are code.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RETIRED = {
    r"\bknows?\b": "say what the module provides",
    r"\bt(?:ells?|old)\b": "prints, returns, reports",
    r"\bsaid\b": "reported, stated",
    r"\bjudg(?:es?|ed|ing|ement)\b": "check",
    r"\bcertificates?\b": "check report",
    r"\bkeeps? every budget|keeps? (?:its|their) values?|comes? back\b": "conserve",
    r"\blaws? (?:holds?|is kept|are kept)|broken laws?|under (?:a|the|no) law\b": "conserves, cell conservation",
    r"\bup-?scalers?\b": "method, upsampler",
    r"\bmade[- ]up\b": "synthetic",
    r"\bany ?body|of anyone's making\b": "from any source",
    r"\bfront door|\b(?:rooms?|floors?|doors?) of\b": "subpackages, layers, functions",
    r"\bseals?\b|\bsealed\b": "checksum file",
    r"\bgo(?:es)? on\b": "resume, continue",
    r"\bno number\b": "NaN",
    r"\bmissing share\b": "missing fraction",
    r"\bcomes? along\b": "bundled",
    r"\bcure[sd]?\b|\bmend(?:s|ed|ing)?\b": "fix",
    r"\bmembers? (?:is|are|were) (?:drawn|made)\b": "generated",
    r"\bway(?:s)? up\b|\bmakes? finer\b": "upsample, refine",
    r"\bwhat was asked\b|\bthe given one\b|\bthe made field\b": "the request, the coarse value, the fine field",
    r"\b(?:MB|GB|kB|K|m|mm) a (?:GB|km|m|kilometre|metre|map|cell|block|day)\b": "per",
    r"\b(?:metres?|kelvin|degrees) a (?:metre|kilometre|day)\b": "per",
    r"\bhelps (?:or|and) harms|\bhelps at home\b": "improves, degrades",
}
PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in RETIRED), re.IGNORECASE)
# Code blocks, names of parameters, inline code, roles of Sphinx, addresses of links, examples.
CODE = re.compile(
    r"```.*?```|^ *[\w, ]+ : (?=[a-z`{])"
    r"|``[^`]*``|:\w+:`[^`]*`|`[^`\n]*`|\]\([^)]*\)|^ *(?:>>>|\.\.\.) [^\n]*$", re.DOTALL | re.MULTILINE
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the first line and the text of each piece of prose of a file."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        for cell in json.loads(content)["cells"]:
            if cell["cell_type"] == "markdown":
                yield 1, "".join(cell["source"])
    elif path.suffix != ".py":
        yield 1, content
    else:
        for token in tokenize.generate_tokens(io.StringIO(content).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        for node in ast.walk(ast.parse(content)):
            # Strings with a space are docstrings, messages and help; others are names and keys.
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.lineno, node.value


def retired(path: Path) -> Iterator[str]:
    """Yield a line for each retired word of a file."""
    for first, text in texts(path):
        # Blanks keep the number of the line.
        plain = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code.group()), text)
        for found in PATTERN.finditer(plain):
            line = first + plain.count("\n", 0, found.start())
            remedy = next(use for pattern, use in RETIRED.items() if re.search(pattern, found.group(), re.IGNORECASE))
            yield f"{path}:{line}: {found.group()!r}; use: {remedy}"


def main() -> int:
    """Print all retired words; return the exit status."""
    folders = ("downscale", "recipes", "benchmarks", "docs", "notebooks")
    every = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    built = {"_build", "generated", "__pycache__", "notebooks"}
    chosen = [path for path in every if path.suffix in (".py", ".md", ".ipynb", ".yml")]
    chosen = [path for path in chosen if not built & set(path.relative_to(ROOT).parts[1:])] + pages
    found = [line for path in ([Path(name) for name in sys.argv[1:]] or chosen) for line in retired(path)]
    print(*found, sep="\n")
    print(f"{len(found)} retired words")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
