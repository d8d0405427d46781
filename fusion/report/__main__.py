"""Print the report: ``python -m fusion.report``."""

from fusion.report.table import main

if __name__ == "__main__":
    main()
