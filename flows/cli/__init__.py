"""The command line ``raft``: the application, its commands, and what they print."""


def main() -> None:
    """Entry point of the ``raft`` command; also of older code that ``raft lineage reproduce`` runs by this name."""
    from flows.cli import app

    app.main()
