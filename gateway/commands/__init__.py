"""The subcommands of `gateway`, a file each."""
