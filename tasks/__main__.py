"""`python -m visreplay.tasks`: the command `visreplay`, for where it is not on the path."""

from visreplay.tasks.commands.cli import main

main()
