"""The commands, one file each: `Options`, `main(options) -> exit code`, and a docstring that `--help-all` shows."""
