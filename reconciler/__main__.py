"""`python -m reconciler` is the same as `tunnels`."""

from reconciler.cli.main import main

if __name__ == "__main__":
    main(prog_name="tunnels")
