"""`python -m gateway` is `stagegate`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
