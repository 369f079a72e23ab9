"""``python -m medmm``: the same doors as the ``medmm`` command."""

from medmm.cli import main

main()
