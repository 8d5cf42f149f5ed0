"""The commands of ``raft``, by subject. Each module adds its own to the application that ``flows.cli.app`` makes."""
