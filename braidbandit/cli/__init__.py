"""The command line: ``braidbandit`` (extra ``cli``)."""
