"""`python -m fortdb` is the `fortdb` command."""

from fortdb.cli.main import main

main(prog_name="fortdb")
