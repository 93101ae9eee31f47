"""`python -m harness.cli` is `bench`."""

from harness.cli.main import main

if __name__ == "__main__":
    main()
