"""`python -m fakd` is `fakd`."""

from fakd.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
