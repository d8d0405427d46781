"""Pages at ``/`` that show whether choosing pays, and why something was chosen."""
