"""`python -m cli` is `clos`."""

from cli.main import main

if __name__ == "__main__":
    main()
