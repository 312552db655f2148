"""``python -m deepcontrast_bmz`` is ``dcbmz``."""

from deepcontrast_bmz.cli import main

if __name__ == "__main__":
    main()
