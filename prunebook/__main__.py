"`python -m prunebook`: the command of `prunebook.cli`, as `accelerate launch -m prunebook` needs it."
import sys
from .cli import main

if __name__ == '__main__': sys.exit(main())
