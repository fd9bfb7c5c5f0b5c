"""The command lines: options in, tables out. The work is done in the modules of the same names."""
