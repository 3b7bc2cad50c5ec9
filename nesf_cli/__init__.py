"""The command line: `nesf --help`. It holds no science."""
