"""``python -m tocsin.serve``: the page as a process of its own."""

from tocsin.serve.app import main

if __name__ == "__main__":
    main()
