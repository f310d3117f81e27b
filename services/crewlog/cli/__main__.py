"""`python -m crewlog.cli` is `crewlog`."""

from crewlog.cli.main import main

if __name__ == "__main__":
    main()
