"""Where the program begins: the heap is set up before any library starts a thread."""

from segpipe.models.heap import keep_freed_memory


def main() -> None:
    """Runs the command line.

    Threads that there are already keep heaps of their own, which can't hold what a network makes.
    """
    keep_freed_memory()
    from segpipe.workflows.cli import main as command

    command()


if __name__ == "__main__":
    main()
