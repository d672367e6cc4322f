"""The modules that docs/architecture.md asks to be read, from photos to the submission, stay few lines."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import imc_kit

DOCUMENT = Path(__file__).parents[1] / "docs/architecture.md"
MOST = 2500
"""Lines of code in these modules, without blank lines, comments and docstrings."""
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in LAYOUT
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for entry in body if isinstance(body, list) else []:
            if isinstance(entry, ast.Expr) and isinstance(entry.value, ast.Constant) and entry.end_lineno:
                lines -= set(range(entry.lineno, entry.end_lineno + 1))
    return len(lines)


def test_code_lines_leave_out_what_is_no_code() -> None:
    source = '"""A\nmodule."""\n\n# why\nx = """a\n\nb"""\n"""About x."""\n'
    source += '\n\ndef f() -> int:\n    """One."""\n    return (\n        1\n    )\n'
    assert code_lines(source) == 3 + 4


def test_the_modules_to_read_are_few_lines() -> None:
    table = DOCUMENT.read_text("utf-8").split("## From photos to `submission.csv`")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    modules = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    assert len(modules) == len(set(modules)) > 15
    root = Path(imc_kit.__file__).parent
    assert sum(code_lines((root / f"{name}.py").read_text("utf-8")) for name in modules) <= MOST
