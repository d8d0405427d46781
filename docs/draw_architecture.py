"""Draws the folders of both packages and who imports whom, from the imports.

``python docs/draw_architecture.py`` writes the picture between the marks in
``docs/architecture.md``; with ``--print`` it only prints it.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import house  # noqa: E402

PAGE = HERE / "architecture.md"
BEGIN, END = "<!-- drawn from the imports -->", "<!-- end -->"
WHAT = {
    "tasks": "what comes in",
    "catalogue": "what can be chosen",
    "bandit": "numbers only",
    "ledger": "what happened",
    "recommender": "braids for tasks",
    "evaluation": "what would have been",
    "agent": "the loop",
    "service": "answers over HTTP",
    "cli": "the command line",
    "tokens": "bytes of tokens",
    "strands": "one frozen model",
    "braid": "the model",
    "calibration": "training",
    "judging": "scores and rewards",
    "conformance": "the battery",
    "report": "python -m fusion.report",
}


def picture(root: Path = house.ROOT) -> str:
    """Both packages as a Mermaid graph: an arrow is an import."""
    lines = ["graph TD"]
    for package, folders in house.FOLDERS.items():
        lines.append(f'  subgraph {package}["{package}/"]')
        for folder in reversed(folders):
            said = f"<br/><i>{WHAT[folder]}</i>"
            lines.append(f'    {package}_{folder}["{folder}/{said}"]')
        lines.append("  end")
    for package in house.FOLDERS:
        for start, end in sorted(house.folder_arrows(package, root)):
            to = end if end in house.FOLDERS else f"{package}_{end}"
            lines.append(f"  {package}_{start} --> {to}")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the picture of now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n```mermaid\n{picture()}\n```\n{END}{after}"


if __name__ == "__main__":
    if "--print" in sys.argv[1:]:
        print(picture())
    else:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
