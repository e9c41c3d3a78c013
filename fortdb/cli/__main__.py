"""`python -m fortdb.cli`: the same as `fortdb`."""

from fortdb.cli.main import main

main(prog_name="fortdb")
