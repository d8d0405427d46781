"""Reads the two packages as text and says what in them breaks a rule of the house.

Every check takes the folder that holds the packages and returns what it finds, as
``file: what`` without line numbers, so that a list of exceptions stays true when lines
move. `test_house` holds the tables and shows each check on a planted breach.
``python tests/house.py`` prints everything.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

# A folder imports from folders before it only; files at the top, with a name that
# begins with _, belong to all.
FOLDERS = {
    "braidbandit": [
        "tasks",
        "catalogue",
        "bandit",
        "ledger",
        "recommender",
        "evaluation",
        "agent",
        "service",
        "cli",
    ],
    "fusion": [
        "tokens",
        "strands",
        "braid",
        "judging",
        "calibration",
        "conformance",
        "report",
    ],
}
MOST_LINES = 60  # of a function
FORMER = "_former"  # re-exports under module paths of former versions
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Node(NamedTuple):
    """A node of a module's syntax, and where it stands."""

    where: str  # dotted name of the class and function around it
    node: ast.AST
    me: str  # what the method around it calls its object, often self; else ""


class File(NamedTuple):
    """A module of the packages."""

    name: str  # as messages show it: braidbandit/bandit/posterior.py
    module: str  # braidbandit.bandit.posterior
    lines: list[str]
    nodes: list[Node]

    @property
    def package(self) -> str:
        """Its package."""
        return self.name.split("/")[0]

    @property
    def folder(self) -> str:
        """Its folder in the package, or "" at the top."""
        parts = self.name.split("/")
        return parts[1] if len(parts) > 2 else ""


class Import(NamedTuple):
    """One name that a file imports from the packages."""

    module: str  # the module that is imported, or imported from
    name: str  # what is imported from it, or ""


# ---- reading ----


@lru_cache(maxsize=1024)
def _parsed(path: Path, _changed: int) -> tuple[list[str], list[Node]]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines(), list(_walk(ast.parse(text), "", ""))


def _walk(node: ast.AST, name: str, me: str) -> Iterator[Node]:
    for child in ast.iter_child_nodes(node):
        inner, own = name, me
        if isinstance(child, Function | ast.ClassDef):
            inner = f"{name}.{child.name}".lstrip(".")
        if isinstance(child, Function) and isinstance(node, ast.ClassDef):
            arguments = [*child.args.posonlyargs, *child.args.args]
            own = arguments[0].arg if arguments else ""
        yield Node(inner, child, own)
        yield from _walk(child, inner, own)


def files(root: Path = ROOT) -> list[File]:
    """Every module of both packages, re-exports under former paths aside."""
    found = []
    for package in FOLDERS:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root)
            if FORMER not in name.parts:
                module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
                parsed = _parsed(path, path.stat().st_mtime_ns)
                found.append(File(name.as_posix(), module, *parsed))
    return found


def imports(file: File, modules: set[str]) -> Iterator[Import]:
    """What a file imports from the packages, wherever in it, also for types only."""
    package = file.module if file.name.endswith("__init__.py") else file.module + "."
    above = package.removesuffix(".").split(".")
    if not file.name.endswith("__init__.py"):
        above = above[:-1]
    for _, node, _ in file.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FOLDERS:
                    yield Import(alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            if module.split(".")[0] not in FOLDERS:
                continue
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                if whole in modules:
                    yield Import(whole, "")
                else:
                    yield Import(module, alias.name)


def _folder_of(module: str) -> tuple[str, str]:
    """Package and folder; the folder is "" for what lies at the top."""
    package, *rest = module.split(".")
    return package, rest[0] if rest and rest[0] in FOLDERS[package] else ""


def _docstring(node: ast.AST) -> range:
    """The lines of a docstring."""
    body = getattr(node, "body", [])
    if body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return range(body[0].lineno, (body[0].end_lineno or 0) + 1)
    return range(0)


# ---- who imports whom ----


def upward_imports(root: Path = ROOT) -> list[str]:
    """Imports from a folder that is not before one's own, or from the wrong package."""
    found, all_files = [], files(root)
    modules = {file.module for file in all_files}
    for file in all_files:
        folders = FOLDERS[file.package]
        if file.folder not in folders:
            continue
        for module, name in imports(file, modules):
            package, folder = _folder_of(module)
            if package == file.package and not folder:
                # `from .. import strands`, or a public name through the lazy package
                folder = name if name in folders else ""
            if package != file.package:
                wrong = package == "braidbandit" or file.folder != "agent"
            else:
                wrong = bool(folder) and folders.index(folder) > folders.index(
                    file.folder
                )
            if wrong:
                found.append(f"{file.name}: {module}{name and '.' + name}")
    return found


def asserts(root: Path = ROOT) -> list[str]:
    """What is checked by an assert, which is gone with ``python -O``.

    One that only tells the type checker what is so says it in a comment behind it.
    """
    found = []
    for file in files(root):
        for _, node, _ in file.nodes:
            if isinstance(node, ast.Assert):
                last = file.lines[(node.end_lineno or node.lineno) - 1]
                if "#" not in last:
                    found.append(f"{file.name}: {ast.unparse(node)}")
    return found


def folder_arrows(package: str, root: Path = ROOT) -> set[tuple[str, str]]:
    """Which folder imports which."""
    all_files = files(root)
    modules = {file.module for file in all_files}
    arrows = set()
    for file in all_files:
        if file.package == package and file.folder:
            for module, _ in imports(file, modules):
                other, folder = _folder_of(module)
                if other == package and folder and folder != file.folder:
                    arrows.add((file.folder, folder))
                elif other != package:
                    arrows.add((file.folder, other))
    return arrows


def floors(package: str, root: Path = ROOT) -> list[str]:
    """The longest chain of folders that import each other, top first."""
    arrows = folder_arrows(package, root)
    folders = [f for f in FOLDERS[package] if any(f in arrow for arrow in arrows)]
    chains: dict[str, list[str]] = {}
    for folder in folders:  # what it imports comes before it
        below = [chains[to] for start, to in arrows if start == folder and to in chains]
        chains[folder] = [folder, *max(below, key=len, default=[])]
    return max(chains.values(), key=len, default=[])


def circles(root: Path = ROOT) -> list[str]:
    """Modules that import each other, directly or in a ring."""
    # A package as a whole gathers its public names.
    return _rings(root, lambda module: module if "." in module else "")


def room_circles(root: Path = ROOT) -> list[str]:
    """Rooms, which are folders of a folder, that import each other so."""
    inside = [f.module.split(".")[:3] for f in files(root) if f.module.count(".") > 2]
    rooms = {".".join(parts) for parts in inside}

    def room_of(module: str) -> str:
        room = ".".join(module.split(".")[:3])
        return room if room in rooms else ""

    return _rings(root, room_of)


def _rings(root: Path, place: Callable[[str], str]) -> list[str]:
    """Places of modules that import each other; "" is no place."""
    all_files = files(root)
    modules = {file.module for file in all_files}
    arrows: dict[str, set[str]] = {}
    for file in all_files:
        if here := place(file.module):
            targets = {place(module) for module, _ in imports(file, modules)}
            arrows.setdefault(here, set()).update(targets - {"", here})
    reach = {start: _reachable(start, arrows) for start in arrows}
    rings = {
        tuple(sorted(other for other in reach[m] if m in reach.get(other, ())))
        for m in arrows
        if m in reach[m]
    }
    return sorted(" <-> ".join(ring) for ring in rings)


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(arrows[start])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(arrows.get(module, ()))
    return seen


# ---- what is private ----


def private_imports(root: Path = ROOT) -> list[str]:
    """Names and modules beginning with _ that another folder imports."""
    found, all_files = [], files(root)
    modules = {file.module for file in all_files}
    for file in all_files:
        for module, name in imports(file, modules):
            package, folder = _folder_of(module)
            if (package, folder) == (file.package, file.folder):
                continue
            inside = module.split(".")[2 if folder else 1 :]
            at_the_top = not folder and package == file.package
            hidden = [p for p in inside if p.startswith("_")] if not at_the_top else []
            if hidden or (name.startswith("_") and not name.startswith("__")):
                found.append(f"{file.name}: {module}{name and '.' + name}")
    return sorted(set(found))


def private_attributes(root: Path = ROOT) -> list[str]:
    """Attributes beginning with _ of objects that another folder defines."""
    all_files = files(root)
    defined: dict[str, set[tuple[str, str]]] = {}
    for file in all_files:
        for name in _private_definitions(file):
            defined.setdefault(name, set()).add((file.package, file.folder))
    found = []
    for file in all_files:
        for _, node, _ in file.nodes:
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                owners = defined.get(node.attr, set())
                if owners and (file.package, file.folder) not in owners:
                    found.append(f"{file.name}: {ast.unparse(node)}")
    return sorted(set(found))


def _private_definitions(file: File) -> Iterator[str]:
    for _, node, _ in file.nodes:
        name = ""
        if isinstance(node, Function | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Name | ast.Attribute):
            if isinstance(node.ctx, ast.Store):
                name = node.id if isinstance(node, ast.Name) else node.attr
        if name.startswith("_") and not name.startswith("__"):
            yield name


# ---- classes ----


def only_heirs(root: Path = ROOT) -> list[str]:
    """Classes with exactly one direct heir, as ``file: Base <- Heir``."""
    all_files = files(root)
    modules = {file.module: file for file in all_files}
    classes = {
        (file.module, node.name): file.name
        for file in all_files
        for _, node, _ in file.nodes
        if isinstance(node, ast.ClassDef)
    }
    heirs: dict[tuple[str, str], list[str]] = {}
    for file in all_files:
        names = dict(_class_names(file, modules))
        for _, node, _ in file.nodes:
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    bare = base.value if isinstance(base, ast.Subscript) else base
                    known = names.get(ast.unparse(bare))
                    if known in classes:
                        heirs.setdefault(known, []).append(node.name)
    return sorted(
        f"{classes[base]}: {base[1]} <- {found[0]}"
        for base, found in heirs.items()
        if len(found) == 1
    )


def _class_names(
    file: File, modules: dict[str, File]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Under which name a file knows which class of the packages."""
    for module, name in imports(file, set(modules)):
        if name:
            yield name, _origin(module, name, modules)
        else:
            for where, node, _ in modules[module].nodes if module in modules else []:
                if isinstance(node, ast.ClassDef) and where == node.name:
                    yield f"{module.split('.')[-1]}.{node.name}", (module, node.name)
    for _, node, _ in file.nodes:
        if isinstance(node, ast.ClassDef):
            yield node.name, (file.module, node.name)


def _origin(module: str, name: str, modules: dict[str, File]) -> tuple[str, str]:
    """Where a name that a module may only hand on is defined."""
    for _ in range(5):
        file = modules.get(module)
        if file is None:
            break
        handed = [i for i in imports(file, set(modules)) if i.name == name]
        if not handed:
            break
        module = handed[0].module
    return module, name


# ---- whose attributes ----


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement writes or deletes."""
    if isinstance(node, ast.Assign | ast.Delete):
        todo = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.comprehension):
        todo = [node.target]
    elif isinstance(node, ast.withitem) and node.optional_vars:
        todo = [node.optional_vars]
    else:
        return
    while todo:
        target = todo.pop()
        if isinstance(target, ast.Tuple | ast.List):
            todo.extend(target.elts)
        elif isinstance(target, ast.Starred):
            todo.append(target.value)
        else:
            yield target


def writes_through(root: Path = ROOT) -> list[str]:
    """Writes of ``a.b.c``, through one object into another, and setattr of others."""
    found = []
    for file in files(root):
        for _, node, me in file.nodes:
            for target in _targets(node):
                if isinstance(target, ast.Attribute):
                    if not isinstance(target.value, ast.Name):
                        found.append(f"{file.name}: {ast.unparse(target)}")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("setattr", "delattr", "object.__setattr__"):
                    if ast.unparse(node.args[0]) != me:
                        found.append(f"{file.name}: {ast.unparse(node)}")
            if isinstance(node, ast.Attribute) and node.attr == "__dict__":
                whose = ast.unparse(node.value)
                if whose != me:
                    found.append(f"{file.name}: {ast.unparse(node)}")
    return sorted(set(found))


def writes_to_others(root: Path = ROOT) -> list[str]:
    """Writes of ``a.b`` where another file's class has ``b``, and none of one's own."""
    found, all_files = [], files(root)
    attributes = {file.name: set(_attributes(file)) for file in all_files}
    everywhere = set().union(*attributes.values())
    for file in all_files:
        others = everywhere - attributes[file.name]
        for _, node, me in file.nodes:
            for target in _targets(node):
                if isinstance(target, ast.Attribute) and target.attr in others:
                    if ast.unparse(target.value) != me:
                        found.append(f"{file.name}: {ast.unparse(target)}")
    return sorted(set(found) - set(writes_through(root)))


def _attributes(file: File) -> Iterator[str]:
    """What the classes of a file have: what they declare, and set of themselves."""
    for where, node, me in file.nodes:
        for target in _targets(node):
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == me:
                yield target.attr
            elif isinstance(target, ast.Name) and not me and where[:1].isupper():
                yield target.id


# ---- functions ----


def function_lengths(root: Path = ROOT) -> dict[str, int]:
    """Lines of every function from ``def`` to its end, docstrings aside."""
    found = {}
    for file in files(root):
        for name, node, _ in file.nodes:
            if isinstance(node, Function):
                whole = (node.end_lineno or node.lineno) - node.lineno + 1
                found[f"{file.name}: {name}"] = whole - len(_docstring(node))
    return found


def long_functions(root: Path = ROOT) -> list[str]:
    """Functions of more lines than any may have."""
    return [name for name, n in function_lengths(root).items() if n > MOST_LINES]


def ninetieth(root: Path = ROOT) -> int:
    """How many lines nine of ten functions have at most."""
    lengths = sorted(function_lengths(root).values())
    return lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0


def not_annotated(root: Path = ROOT) -> list[str]:
    """Arguments and results without an annotation."""
    found = []
    for file in files(root):
        for name, node, me in file.nodes:
            if not isinstance(node, Function):
                continue
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            arguments += [a for a in (given.vararg, given.kwarg) if a]
            for i, argument in enumerate(arguments):
                bound = i == 0 and argument.arg == me and "." in name
                if argument.annotation is None and not bound:
                    found.append(f"{file.name}: {name}({argument.arg})")
            if node.returns is None:
                found.append(f"{file.name}: {name} ->")
    return found


def public_api(root: Path = ROOT) -> dict[str, tuple[int, int]]:
    """Lines of docstrings and of code of what the packages offer, by name.

    Of a class, its own body and public methods. Blank lines and comments are no code.
    """
    found = {}
    for package in FOLDERS:
        offered = _offered(root / package / "__init__.py")
        for file in files(root):
            for where, node, _ in file.nodes if file.package == package else []:
                named = isinstance(node, Function | ast.ClassDef)
                if named and where == node.name and where in offered:
                    found[f"{package}.{node.name}"] = _counted(node, file.lines)
    return found


def documentation(root: Path = ROOT) -> tuple[int, int]:
    """Lines of docstrings and of code of all that the packages offer."""
    counts = list(public_api(root).values())
    return sum(c[0] for c in counts), sum(c[1] for c in counts)


def _offered(init: Path) -> set[str]:
    if not init.exists():
        return set()
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def _counted(node: Function | ast.ClassDef, lines: list[str]) -> tuple[int, int]:
    documented: set[int] = set()
    left_out: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, Function | ast.ClassDef):
            hidden = inner.name.startswith("_") and inner.name != "__init__"
            if hidden and inner is not node:
                end = inner.end_lineno or inner.lineno
                left_out.update(range(inner.lineno, end + 1))
            documented.update(_docstring(inner))
    whole = set(range(node.lineno, (node.end_lineno or node.lineno) + 1)) - left_out
    filled = {i for i in whole if lines[i - 1].strip()}
    code = {i for i in filled - documented if not lines[i - 1].lstrip().startswith("#")}
    return len(whole & documented), len(code)


# What may be found for now, and only ever less.
CHECKS: list[Callable[[Path], list[str]]] = [
    upward_imports,
    circles,
    room_circles,
    private_imports,
    private_attributes,
    only_heirs,
    writes_through,
    writes_to_others,
    long_functions,
    not_annotated,
    asserts,
]


def figures(root: Path = ROOT) -> str:
    """Floors, lengths of functions and documentation, in a few lines."""
    said = []
    for package in FOLDERS:
        chain = floors(package, root)
        said.append(f"floors of {package}: {len(chain)}, {' -> '.join(chain)}")
    said.append(f"functions: 90 % have at most {ninetieth(root)} lines")
    documented, code = documentation(root)
    said.append(
        f"public API: {documented} lines of docstring, {code} of code, "
        f"{documented / max(code, 1):.2f}"
    )
    return "\n".join(said)


def main() -> None:
    """Print what every check finds."""
    for check in CHECKS:
        found = check(ROOT)
        print(f"\n{check.__name__}: {len(found)}", *found, sep="\n  ")
    print(f"\n{figures()}")


if __name__ == "__main__":
    main()
