"""Whether a text is Python, and how much of it."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable


def parses(code: str) -> bool:
    """Whether this is Python, as it stands or as the body of something.

    Examples
    --------
    >>> parses("x = 1"), parses("    return 1"), parses("x is")
    (True, True, False)
    """
    return tree_of(code) is not None or (
        code[:1] in " \t" and tree_of(f"if 1:\n{code}") is not None
    )


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in strings
        return ast.parse(code)


def tree_of(code: str) -> ast.Module | None:
    """The syntax tree of some code; None where it is no Python."""
    try:
        return _parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_code(statement: ast.stmt) -> bool:
    """Whether it is code, and not a word or two of prose that happen to be Python."""
    if isinstance(statement, ast.AnnAssign):  # "Complexity: linear"
        return statement.value is not None
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Compare):
        return any(isinstance(node, ast.Call) for node in ast.walk(statement))
    kinds = (ast.Call, ast.Constant, ast.Await)
    return not isinstance(statement, ast.Expr) or isinstance(statement.value, kinds)


def only_uses(code: str) -> bool:
    """Whether something is called or asserted here, and nothing defined."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    imports = (ast.Import, ast.ImportFrom)
    nodes = list(ast.walk(tree_of(code) or ast.Module([], [])))
    return any(isinstance(node, (ast.Call, ast.Assert)) for node in nodes) and not any(
        isinstance(node, (*kinds, *imports)) for node in nodes
    )


def sets(code: str) -> bool:
    """Whether something is defined or assigned here."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
    return any(
        isinstance(node, kinds) for node in (tree_of(code) or ast.Module([], [])).body
    )


def longest(code: Callable[[int], str], before: int, end: int) -> int:
    """As many lines as are code: up to the one where reading fails, and so on.

    ``before`` lines of ``code(end)`` come before the first that counts.
    """
    while end > 0:
        text = code(end)
        try:
            tree = _parsed(text)
        except SyntaxError as error:
            bad = error.lineno or 1
        except (ValueError, RecursionError, MemoryError):
            return 0
        else:
            prose = [n.lineno for n in tree.body if not is_code(n)]
            if not prose:
                return end if tree.body else 0
            bad = prose[0]
        end = min(end - 1, bad - before - 1)
    return 0
